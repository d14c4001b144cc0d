/* Tables that bitrl_file_assemble must take or refuse, for the sanitizers: prints a line per case. */
#include <math.h>
#include <stdio.h>
#include <string.h>

#include "bitrl.h"

/* The caller's bytes are changed after the call, to show what was copied. */
static void show(const char *title, const bitrl_key *keys, uint64_t key_count, const bitrl_tensor *tensors, uint64_t count)
{
    char error[BITRL_ERROR_BYTES];
    float weights[64];
    bitrl_file *file = NULL;
    if (bitrl_file_assemble(keys, key_count, tensors, count, 1, &file, error))
        printf("%s: error %s\n", title, error);
    else {
        printf("%s: ok %llu bytes", title, (unsigned long long)bitrl_file_size(file));
        for (uint64_t i = 0; i < count; i++) {
            const bitrl_tensor *t = bitrl_file_tensor(file, i);
            uint64_t n = t->shape[0] * t->shape[1] * t->shape[2] * t->shape[3];
            if (bitrl_read_tensor(t, 0, weights, error))
                printf("; %s", error);
            else
                for (uint64_t j = 0; j < n; j++) printf(" %g", (double)weights[j]);
        }
        printf("\n");
    }
    bitrl_file_close(file);
}

int main(void)
{
    static const uint8_t codes[4] = {0x24, 0x06, 0x18, 0xff}; /* 0, 1, 2 and 0; 2, 1, 0, 0; 0, 2, 1, 0; 3, 3, 3, 3 */
    static const float floats[4] = {1, -2, 0.5, 0}, wrong[4] = {1, NAN, 2, 3};
    uint32_t number = 7;
    uint8_t text[12] = {4, 0, 0, 0, 0, 0, 0, 0, 'd', 'a', 't', 'a'}, longer[12];
    memcpy(longer, text, sizeof text);
    longer[0] = 5;
    const bitrl_key u32 = {"n", 1, 4, 4, 1, (uint8_t *)&number, 4}, string = {"s", 1, 8, 8, 1, text, 12};
    const bitrl_tensor packed = {"w", 1, 1000, 2, {3, 4, 1, 1}, codes, 3, 0.5f};
    const bitrl_tensor plain = {"v", 1, 0, 1, {4, 9, 9, 9}, (const uint8_t *)floats, 16, 1}; /* 1 beyond dims is set */

    show("nothing", NULL, 0, NULL, 0);
    show("both", (bitrl_key[]){string, u32}, 2, (bitrl_tensor[]){packed, plain}, 2);

    bitrl_key key = u32;
    key.value_bytes = 3;
    show("short value", &key, 1, NULL, 0);
    key = string;
    key.value = longer;
    show("text beyond its value", &key, 1, NULL, 0);
    key = u32;
    key.count = 2;
    show("two of one", &key, 1, NULL, 0);
    key = u32;
    key.type = 9, key.count = 1ull << 62;
    show("array of 2^62", &key, 1, NULL, 0);
    key = u32;
    key.name_bytes = 0;
    show("no name", &key, 1, NULL, 0);
    show("twice a key", (bitrl_key[]){u32, u32}, 2, NULL, 0);

    bitrl_tensor t = packed;
    show("twice a tensor", NULL, 0, (bitrl_tensor[]){t, t}, 2);
    t.shape[1] = 3;
    show("three packed rows", NULL, 0, &t, 1);
    t = packed;
    t.shape[0] = 1ull << 62, t.shape[1] = 1ull << 62;
    show("product wraps", NULL, 0, &t, 1);
    t = packed;
    t.bytes = 4;
    show("bytes", NULL, 0, &t, 1);
    t = packed;
    t.data = NULL;
    show("no data", NULL, 0, &t, 1);
    t = packed;
    t.dims = 5;
    show("five dimensions", NULL, 0, &t, 1);
    t = packed;
    t.type = 1001;
    show("type", NULL, 0, &t, 1);
    const float scales[] = {NAN, INFINITY, -1, 0};
    for (int i = 0; i < 4; i++) {
        t = packed;
        t.scale = scales[i];
        show("scale", NULL, 0, &t, 1);
    }
    t = packed;
    t.data = codes + 1;
    show("code 3", NULL, 0, &t, 1);
    t = plain;
    t.data = (const uint8_t *)wrong;
    show("not finite", NULL, 0, &t, 1);
    return 0;
}
