/* The angles of rotary positions. With sines, cosines and powers of its own: those of C libraries differ in the last bit,
 * even one library's between a CPU that fuses multiply-adds and one that does not. */
#include <math.h>

#include "internal.h"

/* Of x > 0: x = 2^e * m with m between sqrt(1/2) and sqrt(2), and log(m) = 2 atanh((m - 1) / (m + 1)) as a series. */
double bitrl_logarithm(double x)
{
    int e;
    double m = frexp(x, &e);
    if (m < 0x1.6a09e667f3bcdp-1) m *= 2, e--;
    double s = (m - 1) / (m + 1), square = s * s, sum = 0;
    for (int k = 23; k > 0; k -= 2) sum = sum * square + 1.0 / k;
    return e * 0x1.62e42fefa0000p-1 + (e * 0x1.cf79abc9e3b3ap-40 + 2 * s * sum);
}

/* exp(x) = 2^n exp(r), |r| <= ln(2) / 2, by Taylor's series. */
static double exponential(double x)
{
    double n = rint(x * 0x1.71547652b82fep0), sum = 1;
    double r = x - n * 0x1.62e42fefa0000p-1 - n * 0x1.cf79abc9e3b3ap-40;
    for (int k = 14; k > 0; k--) sum = 1 + r / k * sum;
    return ldexp(sum, (int)n);
}

/* Of an angle from 0 on: quarters of a turn are taken off it, in parts whose products are exact below 2^27, and Taylor's
 * series give the rest. Larger angles, of frequencies that make no sense, keep few digits. */
static void cosine_and_sine(double *cosine, double *sine, double angle)
{
    static const double even[] = {1.0 / 6402373705728000.0, -1.0 / 20922789888000.0, 1.0 / 87178291200.0,
                                  -1.0 / 479001600.0,       1.0 / 3628800.0,         -1.0 / 40320.0,
                                  1.0 / 720.0,              -1.0 / 24.0,             0.5};
    static const double odd[] = {1.0 / 355687428096000.0, -1.0 / 1307674368000.0, 1.0 / 6227020800.0, -1.0 / 39916800.0,
                                 1.0 / 362880.0,          -1.0 / 5040.0,          1.0 / 120.0,        -1.0 / 6.0};
    if (angle >= 0x1p27) angle = fmod(angle, 0x1.921fb54442d18p2);
    double quarters = rint(angle * 0x1.45f306dc9c883p-1);
    double r = angle - quarters * 0x1.921fb58p0 - quarters * -0x1.dde974p-27 - quarters * 0x1.1a62633145c07p-54;
    double square = r * r, c = 0, s = 0;
    for (size_t i = 0; i < sizeof even / sizeof *even; i++) c = c * square + even[i];
    for (size_t i = 0; i < sizeof odd / sizeof *odd; i++) s = s * square + odd[i];
    c = 1 - square * c;
    s = r + r * square * s;
    switch ((int64_t)quarters & 3) {
    case 0: *cosine = c, *sine = s; break;
    case 1: *cosine = -s, *sine = c; break;
    case 2: *cosine = -c, *sine = -s; break;
    default: *cosine = s, *sine = -c;
    }
}

void bitrl_frequencies(double *out, size_t dims, double theta)
{
    double power = bitrl_logarithm(theta);
    for (size_t i = 0; i < dims / 2; i++) out[i] = exponential(-2.0 * (double)i / (double)dims * power);
}

/* The pair of dimensions that turns so often over the context that a model was first trained with. */
static double pair_of(const rope_scaling *s, double turns, size_t dims, double theta)
{
    return (double)dims * bitrl_logarithm(s->original / (turns * 0x1.921fb54442d18p2)) / (2 * bitrl_logarithm(theta));
}

double bitrl_scale_frequencies(double *frequencies, size_t dims, double theta, const rope_scaling *s)
{
    if (s->kind == ROPE_LINEAR)
        for (size_t i = 0; i < dims / 2; i++) frequencies[i] /= s->factor;
    if (s->kind != ROPE_YARN) return s->attention;
    /* Fast pairs stay as they are, slow ones are stretched, and those between are mixed (YaRN, arXiv 2309.00071). */
    double first = floor(pair_of(s, s->fast, dims, theta)), last = ceil(pair_of(s, s->slow, dims, theta));
    first = first > 0 ? first : 0;
    last = last < (double)dims - 1 ? last : (double)dims - 1;
    double over = last - first > 0.001 ? last - first : 0.001;
    for (size_t i = 0; i < dims / 2; i++) {
        double share = ((double)i - first) / over;
        share = share < 0 ? 0 : share > 1 ? 1 : share;
        frequencies[i] = frequencies[i] / s->factor * share + frequencies[i] * (1 - share);
    }
    return s->attention * (s->factor > 1 ? 1 + 0.1 * bitrl_logarithm(s->factor) : 1);
}

void bitrl_rope(double *rope, size_t positions, size_t dims, const double *frequencies, double factor)
{
    size_t half = dims / 2;
    for (size_t i = 0; i < half; i++)
        for (size_t p = 0; p < positions; p++) {
            double *cosine = rope + p * dims + i, *sine = cosine + half;
            cosine_and_sine(cosine, sine, (double)p * frequencies[i]);
            *cosine *= factor;
            *sine *= factor;
        }
}
