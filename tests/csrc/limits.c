/* Prints each limit for test_limits.py: its name, what two threads do in a second, the instructions. */
#include <stdio.h>

#include "bitrl.h"
#include "machine_limits.h"

int main(void)
{
    static const char *const names[] = {"int8", "bf16", "fp32", "amx_int8", "amx_bf16", "memory"};
    char error[BITRL_ERROR_BYTES];
    bitrl_limits *limits;
    if (bitrl_limits_open(2, (4 << 20) + 1, &limits, error)) return puts(error), 1;
    for (int i = 0; i < 6; i++) {
        double each = 0;
        const char *how = bitrl_limit_instructions(names[i]);
        int status = bitrl_limits_measure(limits, names[i], 2, 0.01, &each, error);
        if ((status == BITRL_OK) != (how != NULL)) return puts("the two disagree"), 1;
        if (how) printf("%s %g %s\n", names[i], each, how);
    }
    bitrl_limits_close(limits);
    return 0;
}
