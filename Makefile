# One door: everything CI does is one of these verbs, so it runs at home too.
PY := .venv/bin/python

.PHONY: native
native:  ## rebuild the changed modules of the native core, in place
	@$(PY) setup.py -q build_ext --inplace
