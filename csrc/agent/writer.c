/* Writing states as the serializers of plugins/serializers do, piece by piece: numbers digit by digit alike.
 *
 * printf rounds as Python does: correctly, from the exact value. */
#include "writer.h"

#include <math.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "internal.h"

enum { MOST_PIECES = 1 << 16, MOST_DECIMALS = 30, MOST_WIDTH = 99, NUMBER = 512, MOST_PARTS = 4096 };

typedef enum { LITERAL, NUMBER_PIECE, TEXT, CODE } piece_kind;
typedef enum { PRINTED, SHORTENED, WHOLE, BIN } number_form;
typedef enum { ALL, SIZE, WORD } shown; /* of a number: all of it, without its sign, or a word for its sign */
typedef enum { VERBATIM, SENTENCE, QUOTED } text_form;

typedef struct {
    piece_kind kind;
    size_t index; /* of the number, text or code */
    size_t bytes, count, other, other_count; /* in strings: a literal; the word of a negative number, and of another */
    number_form form;
    shown show;
    char format[16];                            /* of PRINTED, for snprintf */
    bool percent;                               /* times 100, and a sign behind */
    double offset, scale;                       /* of SHORTENED: what is written is (x - offset) / scale */
    int decimals;
    double low, high, middle, steps, end;       /* of BIN */
    text_form as;
} piece;

/* A part of the codebook: some numbers in a row, and its codes, each with its squared norm before it. */
typedef struct {
    size_t first, width, count;
    const double *codes; /* [count, 1 + width] */
} code_part;

struct writer {
    piece *pieces;
    size_t count, most;
    char *strings;
    size_t string_bytes;
    double *codes, *mean, *scale; /* of the codebook: [code_count], [numbers], [numbers] */
    code_part *parts;
    size_t part_count;
};

/* ---- reading the plan ---- */

/* "+06.2f" and such. */
static int read_format(const plan *p, const json_node *object, piece *out)
{
    char text[12] = {0}, *to = out->format;
    const json_node *node = plan_field(p, object, "format", JSON_STRING);
    if (!node) return BITRL_BAD_FILE;
    const size_t bytes = json_string(p->json, node, text, sizeof text - 1);
    const char *at = text;
    int width = 0, decimals = -1;
    if (bytes >= sizeof text) return plan_wrong(p, "format");
    *to++ = '%';
    if (*at == '+' || *at == ' ' || *at == '-') {
        if (*at != '-') *to++ = *at;
        at++;
    }
    const bool zeros = *at == '0';
    at += zeros;
    while (*at >= '0' && *at <= '9' && width <= MOST_WIDTH) width = 10 * width + *at++ - '0';
    if (*at == '.') {
        at++;
        if (*at < '0' || *at > '9') return plan_wrong(p, "format");
        for (decimals = 0; *at >= '0' && *at <= '9' && decimals <= MOST_DECIMALS;) decimals = 10 * decimals + *at++ - '0';
    }
    out->percent = *at == '%';
    if (!*at || !strchr("efg%", *at) || at[1] || width > MOST_WIDTH || decimals > MOST_DECIMALS) return plan_wrong(p, "format");
    if (out->percent && width) width--;
    if (zeros && width) *to++ = '0';
    if (width) to += sprintf(to, "%d", width);
    if (decimals >= 0) to += sprintf(to, ".%d", decimals);
    *to++ = out->percent ? 'f' : *at;
    *to = 0;
    return BITRL_OK;
}

static int add_string(writer *w, const plan *p, const json_node *node, size_t *at, size_t *count)
{
    if (node->kind != JSON_STRING) return plan_wrong(p, "text");
    *at = w->string_bytes;
    *count = json_string(p->json, node, w->strings + w->string_bytes, node->end - node->begin);
    w->string_bytes += *count;
    return BITRL_OK;
}

static int read_number(writer *w, const plan *p, const json_node *object, piece *out)
{
    int status = BITRL_OK;
    int64_t decimals;
    if (json_find(p->json, object, "short")) {
        out->form = SHORTENED;
        status = plan_integer(p, object, "short", 0, MOST_DECIMALS, -1, &decimals);
        if (!status) status = plan_number(p, object, "offset", &out->offset);
        if (!status) status = plan_number(p, object, "scale", &out->scale);
        if (!status && !(out->scale > 0)) status = plan_wrong(p, "scale");
        out->decimals = (int)decimals;
    } else if (json_find(p->json, object, "bin")) {
        const json_node *bin = plan_field(p, object, "bin", JSON_OBJECT);
        out->form = BIN;
        if (!bin) return BITRL_BAD_FILE;
        status = plan_number(p, bin, "low", &out->low);
        if (!status) status = plan_number(p, bin, "high", &out->high);
        if (!status) status = plan_number(p, bin, "middle", &out->middle);
        if (!status) status = plan_number(p, bin, "steps", &out->steps);
        if (!status) status = plan_number(p, bin, "end", &out->end);
        if (!status && !(out->low < out->high && out->end >= 1 && out->end < 1e6)) status = plan_wrong(p, "bin");
    } else if (json_find(p->json, object, "format")) {
        status = read_format(p, object, out);
    } else {
        out->form = WHOLE;
    }
    const json_node *words = json_find(p->json, object, "words");
    if (words && !status) {
        out->show = WORD;
        if (words->kind != JSON_ARRAY || words->count != 2) return plan_wrong(p, "words");
        const json_node *first = json_first(words);
        status = add_string(w, p, first, &out->bytes, &out->count);
        if (!status) status = add_string(w, p, json_after(p->json, first), &out->other, &out->other_count);
    } else if (json_find(p->json, object, "size"))
        out->show = SIZE;
    return status;
}

static int read_piece(writer *w, const plan *p, const json_node *node, size_t numbers, size_t texts, piece *out)
{
    static const struct {
        const char *name;
        piece_kind kind;
    } kinds[] = {{"number", NUMBER_PIECE}, {"text", TEXT}, {"code", CODE}};
    if (node->kind == JSON_STRING) return add_string(w, p, node, &out->bytes, &out->count);
    const size_t counts[] = {numbers, texts, w->part_count};
    for (size_t i = 0; i < sizeof kinds / sizeof *kinds; i++) {
        int64_t index;
        if (!json_find(p->json, node, kinds[i].name)) continue;
        out->kind = kinds[i].kind;
        int status = plan_integer(p, node, kinds[i].name, 0, (int64_t)counts[i] - 1, -1, &index);
        out->index = (size_t)index;
        if (status) return status;
        if (out->kind == NUMBER_PIECE) return read_number(w, p, node, out);
        if (out->kind == TEXT)
            out->as = plan_is(p, node, "as", "json") ? QUOTED : plan_is(p, node, "as", "sentence") ? SENTENCE : VERBATIM;
        return BITRL_OK;
    }
    return plan_wrong(p, "text");
}

/* "codebook": {"mean": […], "scale": […], "widths": […], "counts": […]} */
static int read_codebook(writer *w, const plan *p, const json_node *root, size_t numbers, const uint8_t *codes, uint64_t code_count)
{
    const json_node *book = json_find(p->json, root, "codebook");
    if (!book) return BITRL_OK;
    const json_node *widths = plan_field(p, book, "widths", JSON_ARRAY), *counts = plan_field(p, book, "counts", JSON_ARRAY);
    if (!widths || !counts) return BITRL_BAD_FILE;
    w->part_count = widths->count;
    if (counts->count != widths->count || w->part_count < 1 || w->part_count > MOST_PARTS) return plan_wrong(p, "codebook");
    w->parts = calloc(w->part_count, sizeof *w->parts);
    w->codes = malloc(code_count * sizeof *w->codes + 1);
    w->mean = calloc(numbers + 1, sizeof *w->mean);
    w->scale = calloc(numbers + 1, sizeof *w->scale);
    if (!w->parts || !w->codes || !w->mean || !w->scale) return bitrl_fail(p->error, BITRL_NO_MEMORY, "no memory for a codebook");
    if (code_count) memcpy(w->codes, codes, code_count * sizeof *w->codes);
    for (uint64_t i = 0; i < code_count; i++)
        if (!isfinite(w->codes[i])) return plan_wrong(p, "codebook");
    int status = plan_numbers(p, book, "mean", numbers, 0, w->mean);
    if (!status) status = plan_numbers(p, book, "scale", numbers, 0, w->scale);
    for (size_t i = 0; !status && i < numbers; i++)
        if (!(w->scale[i] > 0)) status = plan_wrong(p, "scale");
    const json_node *width = json_first(widths), *count = json_first(counts);
    size_t first = 0;
    uint64_t at = 0;
    for (size_t i = 0; !status && i < w->part_count; i++) {
        int64_t own, many;
        if (width->kind != JSON_INTEGER || !json_integer(p->json, width, &own) || own < 1 || (uint64_t)own > numbers - first ||
            count->kind != JSON_INTEGER || !json_integer(p->json, count, &many) || many < 1 ||
            (uint64_t)many > (code_count - at) / ((uint64_t)own + 1))
            return plan_wrong(p, "codebook");
        w->parts[i] = (code_part){first, (size_t)own, (size_t)many, w->codes + at};
        first += (size_t)own;
        at += (uint64_t)many * ((uint64_t)own + 1);
        width = json_after(p->json, width);
        count = json_after(p->json, count);
    }
    return status;
}

int writer_open(const plan *p, const json_node *root, size_t numbers, const text_part *texts, size_t text_count, const uint8_t *codes,
                uint64_t code_count, writer **out)
{
    *out = NULL;
    const json_node *array = plan_field(p, root, "text", JSON_ARRAY);
    if (!array) return BITRL_BAD_FILE;
    if (array->count > MOST_PIECES) return plan_wrong(p, "text");
    writer *w = calloc(1, sizeof *w);
    if (!w) return bitrl_fail(p->error, BITRL_NO_MEMORY, "no memory for the pieces of a text");
    w->pieces = calloc(array->count + 1, sizeof *w->pieces);
    w->strings = malloc(array->end - array->begin + 1);
    int status = w->pieces && w->strings ? BITRL_OK : bitrl_fail(p->error, BITRL_NO_MEMORY, "no memory for the pieces of a text");
    if (!status) status = read_codebook(w, p, root, numbers, codes, code_count);
    const json_node *node = json_first(array);
    for (size_t i = 0; !status && i < array->count; i++, node = json_after(p->json, node)) {
        piece *added = &w->pieces[w->count++];
        status = read_piece(w, p, node, numbers, text_count, added);
        if (!status)
            w->most += added->kind == LITERAL ? added->count : added->kind == TEXT ? 6 * texts[added->index].most + 3
                       : added->show == WORD ? added->count + added->other_count : NUMBER;
    }
    if (status)
        writer_close(w);
    else
        *out = w;
    return status;
}

void writer_close(writer *w)
{
    if (!w) return;
    free(w->pieces);
    free(w->strings);
    free(w->codes);
    free(w->mean);
    free(w->scale);
    free(w->parts);
    free(w);
}

size_t writer_most(const writer *w) { return w->most; }

/* ---- writing ---- */

/* "-0.00" is "0.00": the sign of zero is noise to a model. */
static bool is_zero(const char *text)
{
    for (; *text && *text != 'e'; text++)
        if (*text >= '1' && *text <= '9') return false;
    return true;
}

static size_t print(const piece *p, double x, char out[NUMBER])
{
    if (p->percent) x *= 100;
    size_t n = (size_t)snprintf(out, NUMBER - 1, p->format, x);
    if (signbit(x) && isfinite(x) && is_zero(out)) n = (size_t)snprintf(out, NUMBER - 1, p->format, 0.0);
    if (p->percent) out[n++] = '%';
    return n;
}

/* At most `decimals` digits after the point, fewer where it is large, and from ten thousand on three digits and an exponent. */
static size_t print_short(double x, int decimals, char out[NUMBER])
{
    static const struct {
        double limit;
        int most;
    } below[] = {{99.9, 3}, {999.0, 1}, {9999.0, 0}};
    if (isinf(x)) return (size_t)snprintf(out, NUMBER, x < 0 ? "-inf" : "inf");
    for (size_t i = 0; i < sizeof below / sizeof *below; i++)
        if (-below[i].limit < x && x < below[i].limit) {
            int digits = decimals < below[i].most ? decimals : below[i].most;
            size_t n = (size_t)snprintf(out, NUMBER, "%.*f", digits, x);
            return signbit(x) && is_zero(out) ? (size_t)snprintf(out, NUMBER, "%.*f", digits, 0.0) : n;
        }
    char text[32], *e;
    snprintf(text, sizeof text, "%.2e", x); /* -1.23e+05 -> -123e3 */
    e = strchr(text, 'e');
    const char *sign = x < 0 ? "-" : "", *digits = text + (x < 0);
    return (size_t)snprintf(out, NUMBER, "%s%c%.2se%d", sign, digits[0], digits + 2, atoi(e + 1) - 2);
}

static size_t print_bin(const piece *p, double x, char out[NUMBER])
{
    const double clipped = x < p->low ? p->low : x > p->high ? p->high : x;
    return (size_t)snprintf(out, NUMBER, "%d", (int)rint((clipped - p->middle) * p->steps));
}

static size_t print_number(const piece *p, double x, char out[NUMBER])
{
    switch (p->form) {
    case PRINTED: return print(p, x, out);
    case SHORTENED: return print_short((x - p->offset) / p->scale, p->decimals, out);
    case BIN: return print_bin(p, x, out);
    default: return (size_t)snprintf(out, NUMBER, "%.0f", trunc(x) + 0.0);
    }
}

/* The code that is nearest to some of a state's numbers, standardised. */
static size_t nearest(const writer *w, const code_part *part, const double *numbers)
{
    size_t best = 0;
    double least = INFINITY;
    for (size_t i = 0; i < part->count; i++) {
        const double *code = part->codes + i * (part->width + 1);
        double product = 0;
        for (size_t c = 0; c < part->width; c++) {
            const size_t at = part->first + c;
            double x = (numbers[at] - w->mean[at]) / w->scale[at];
            x = x < -1e6 ? -1e6 : x > 1e6 ? 1e6 : x;
            product += x * code[c + 1];
        }
        if (code[0] - 2 * product < least) {
            least = code[0] - 2 * product;
            best = i;
        }
    }
    return best;
}

/* As json.dumps: in ASCII. */
static size_t quote(const text_part *text, char *out)
{
    char *to = out;
    *to++ = '"';
    for (size_t i = 0; i < text->count;) {
        const unsigned char *c = (const unsigned char *)text->bytes + i;
        const char *escape = *c ? strchr("\"\"\\\\\bb\ff\nn\rr\tt", *c) : NULL;
        size_t n = *c < 0x80 ? 1 : *c < 0xe0 ? 2 : *c < 0xf0 ? 3 : 4;
        uint32_t code = n == 1 ? *c : *c & (0xffu >> (n + 1));
        for (size_t k = 1; k < n; k++) code = code << 6 | (c[k] & 0x3f);
        i += n;
        if (*c == '"' || *c == '\\' || (escape && *c < ' ')) {
            *to++ = '\\';
            *to++ = *c == '"' || *c == '\\' ? (char)*c : escape[1];
        } else if (code >= ' ' && code < 0x7f)
            *to++ = (char)code;
        else if (code < 0x10000)
            to += sprintf(to, "\\u%04x", (unsigned)code);
        else
            to += sprintf(to, "\\u%04x\\u%04x", (unsigned)(0xd800 + ((code - 0x10000) >> 10)), (unsigned)(0xdc00 + ((code - 0x10000) & 0x3ff)));
    }
    *to++ = '"';
    return (size_t)(to - out);
}

static size_t write_piece(const writer *w, const piece *p, const double *numbers, const text_part *texts, char *out)
{
    char digits[NUMBER];
    size_t n;
    switch (p->kind) {
    case LITERAL: memcpy(out, w->strings + p->bytes, p->count); return p->count;
    case CODE: return (size_t)sprintf(out, "%zu", nearest(w, &w->parts[p->index], numbers));
    case TEXT:
        if (p->as == QUOTED) return quote(&texts[p->index], out);
        n = texts[p->index].count;
        memcpy(out, texts[p->index].bytes, n);
        if (p->as == SENTENCE && (!n || out[n - 1] != '.')) out[n++] = '.';
        return n;
    default: break;
    }
    n = print_number(p, numbers[p->index], digits);
    const bool negative = digits[0] == '-';
    if (p->show == WORD) {
        n = negative ? p->count : p->other_count;
        memcpy(out, w->strings + (negative ? p->bytes : p->other), n);
        return n;
    }
    const size_t from = p->show == SIZE && negative;
    memcpy(out, digits + from, n - from);
    return n - from;
}

size_t write_state(const writer *w, const double *numbers, const text_part *texts, char *out)
{
    size_t at = 0;
    for (size_t i = 0; i < w->count; i++) at += write_piece(w, &w->pieces[i], numbers, texts, out + at);
    return at;
}
