/* Python's random.Random, number for number: the Mersenne Twister MT19937 (Matsumoto and Nishimura,
 * 1998) seeded by an integer, and what CPython's Lib/random.py draws from it. lm-evaluation-harness
 * chooses few-shot examples and bootstrap resamples with it, so equal prompts need equal draws.
 * Nothing else in Lathe uses it. */
#ifndef LT_TRAIN_EVALUATION_PYTHON_RANDOM_H
#define LT_TRAIN_EVALUATION_PYTHON_RANDOM_H

#include <stdint.h>

#include "base/status.h"

typedef struct lt_python_random {
    uint32_t state[624];
    int index;
} lt_python_random;

void lt_python_random_seed(lt_python_random *random, uint64_t seed);       /* random.Random(seed) */
double lt_python_random_next(lt_python_random *random);                    /* random() */
uint64_t lt_python_random_below(lt_python_random *random, uint64_t bound); /* randrange(bound) */
/* sample(range(population), count): count <= population. */
lt_status lt_python_random_sample(lt_python_random *random, int64_t population, int64_t count,
                                  int64_t *out, lt_err *err);

#endif
