from typing import Any

# cffi's own objects have no useful static types; sparrow.dataplane.ring is the typed door to them.
ffi: Any
lib: Any
