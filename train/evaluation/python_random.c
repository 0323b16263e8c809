/* MT19937 as Modules/_randommodule.c seeds it, and the draws of Lib/random.py. */
#include "train/evaluation/python_random.h"

#include <math.h>
#include <stdlib.h>
#include <string.h>

#include "base/checked.h"

enum { N = 624, M = 397 };

/* Knuth's linear generator fills the state that the key is then mixed into. */
static void fill_state(uint32_t *state, uint32_t seed)
{
    state[0] = seed;
    for (uint32_t i = 1; i < N; i++)
        state[i] = 1812433253u * (state[i - 1] ^ (state[i - 1] >> 30)) + i;
}

/* The last word of the state is also the one before the first. */
static void wrap(uint32_t *state, uint32_t *i)
{
    if (*i < N) return;
    state[0] = state[N - 1];
    *i = 1;
}

void lt_python_random_seed(lt_python_random *random, uint64_t seed)
{
    uint32_t key[2] = {(uint32_t)seed, (uint32_t)(seed >> 32)};
    uint32_t key_length = key[1] ? 2 : 1, *state = random->state, i = 1;
    fill_state(state, 19650218u);
    for (uint32_t k = 0; k < N; k++) {
        uint32_t j = k % key_length;
        uint32_t before = state[i - 1] ^ (state[i - 1] >> 30);
        state[i] = (state[i] ^ (before * 1664525u)) + key[j] + j;
        i++;
        wrap(state, &i);
    }
    for (uint32_t k = 0; k < N - 1; k++) {
        uint32_t before = state[i - 1] ^ (state[i - 1] >> 30);
        state[i] = (state[i] ^ (before * 1566083941u)) - i;
        i++;
        wrap(state, &i);
    }
    state[0] = 0x80000000u;
    random->index = N;
}

static uint32_t twist(uint32_t high, uint32_t low, uint32_t far)
{
    uint32_t mixed = (high & 0x80000000u) | (low & 0x7FFFFFFFu);
    return far ^ (mixed >> 1) ^ (-(mixed & 1u) & 0x9908B0DFu);
}

static void next_state(uint32_t *state)
{
    for (int i = 0; i < N - M; i++)
        state[i] = twist(state[i], state[i + 1], state[i + M]);
    for (int i = N - M; i < N - 1; i++)
        state[i] = twist(state[i], state[i + 1], state[i + M - N]);
    state[N - 1] = twist(state[N - 1], state[0], state[M - 1]);
}

static uint32_t next_word(lt_python_random *random)
{
    if (random->index >= N) {
        next_state(random->state);
        random->index = 0;
    }
    uint32_t word = random->state[random->index++];
    word ^= word >> 11;
    word ^= (word << 7) & 0x9D2C5680u;
    word ^= (word << 15) & 0xEFC60000u;
    return word ^ (word >> 18);
}

double lt_python_random_next(lt_python_random *random)
{
    uint32_t high = next_word(random) >> 5, low = next_word(random) >> 6;
    return (high * 67108864.0 + low) * (1.0 / 9007199254740992.0);
}

static uint64_t random_bits(lt_python_random *random, int bits)
{
    if (bits <= 32) return next_word(random) >> (32 - bits);
    uint64_t low = next_word(random);
    return low | (uint64_t)(next_word(random) >> (64 - bits)) << 32;
}

uint64_t lt_python_random_below(lt_python_random *random, uint64_t bound)
{
    if (bound == 0) return 0;
    int bits = 64 - __builtin_clzll(bound);
    uint64_t value;
    do
        value = random_bits(random, bits);
    while (value >= bound);
    return value;
}

/* Above this population CPython keeps a set of what it has drawn instead of a list of what is left:
 * other draws, so the border counts. */
static double largest_listed_population(int64_t count)
{
    double set_size = 21;
    if (count > 5) set_size += pow(4, ceil(log((double)count * 3) / log(4)));
    return set_size;
}

static lt_status sample_from_list(lt_python_random *random, int64_t population, int64_t count,
                                  int64_t *out, lt_err *err)
{
    size_t bytes;
    int64_t *left = NULL;
    if (lt_mul_size((size_t)population, sizeof *left, &bytes)) left = malloc(bytes ? bytes : 1);
    if (!left)
        return lt_fail_nomem(err, (unsigned long long)population * sizeof *left, "a random sample");
    for (int64_t i = 0; i < population; i++)
        left[i] = i;
    for (int64_t i = 0; i < count; i++) {
        uint64_t at = lt_python_random_below(random, (uint64_t)(population - i));
        out[i] = left[at];
        left[at] = left[population - i - 1];
    }
    free(left);
    return LT_OK;
}

static int64_t *find_slot(int64_t *slots, size_t mask, int64_t value)
{
    size_t at = (size_t)((uint64_t)value * 0x9E3779B97F4A7C15u >> 20) & mask;
    while (slots[at] >= 0 && slots[at] != value)
        at = (at + 1) & mask;
    return &slots[at];
}

static lt_status sample_by_set(lt_python_random *random, int64_t population, int64_t count,
                               int64_t *out, lt_err *err)
{
    size_t capacity = 16;
    while (capacity < 2 * (size_t)count)
        capacity *= 2;
    int64_t *drawn = malloc(capacity * sizeof *drawn);
    if (!drawn) return lt_fail_nomem(err, capacity * sizeof *drawn, "a random sample");
    memset(drawn, 0xFF, capacity * sizeof *drawn);
    for (int64_t i = 0; i < count; i++) {
        int64_t *slot;
        do {
            out[i] = (int64_t)lt_python_random_below(random, (uint64_t)population);
            slot = find_slot(drawn, capacity - 1, out[i]);
        } while (*slot >= 0);
        *slot = out[i];
    }
    free(drawn);
    return LT_OK;
}

lt_status lt_python_random_sample(lt_python_random *random, int64_t population, int64_t count,
                                  int64_t *out, lt_err *err)
{
    if (count < 0 || count > population)
        return lt_fail(err, LT_ERR_USAGE, "can not draw %lld of %lld without repeating one",
                       (long long)count, (long long)population);
    if ((double)population <= largest_listed_population(count))
        return sample_from_list(random, population, count, out, err);
    return sample_by_set(random, population, count, out, err);
}
