/* Lets a program that runs in callgrind say what is to be counted (Valgrind manual, "Callgrind specific client
 * requests"). Outside of Valgrind each of these does nothing. */
#include <valgrind/callgrind.h>

void counting_begin(void)
{
    CALLGRIND_START_INSTRUMENTATION;
    CALLGRIND_ZERO_STATS;
}

void counting_end(const char *name)
{
    CALLGRIND_DUMP_STATS_AT(name);
    CALLGRIND_STOP_INSTRUMENTATION;
}
