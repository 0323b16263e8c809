/* What the processes exchange while they train one model: gradients after backward, weights before
 * they are needed. Private to train/. (Rajbhandari et al., "ZeRO", 2020: optimizer state, gradients
 * and parameters are stages 1, 2 and 3.)
 *
 *   none        every process has everything; gradients of each unit are all-reduced
 *   optimizer   each process steps its part of every unit: gradients are reduce-scattered as
 *               backward of the last micro-batch leaves the unit; stepped weights are all-gathered
 *               while the next forward pass is on its way to the unit
 *   gradients   as optimizer, but no process keeps whole gradients: each micro-batch's are
 *               reduce-scattered and added up in parts
 *   parameters  as gradients, and weights are gathered for each pass, one unit ahead
 *
 * Gradients of adapters are small and whole everywhere: one all-reduce. The model tells by
 * lt_unit_observer where a pass is; a process whose batch has no rows passes all the same, so that
 * all have the same collectives in the same order. */
#ifndef LT_TRAIN_SHARD_H
#define LT_TRAIN_SHARD_H

#include "model/model.h"
#include "train/comm/comm.h"

/* NULL for a world of one, which has nothing to exchange: every function takes it. */
/* As --shard has it; a name that is none of them is LT_SHARD_NONE. */
const char *lt_shard_name(lt_shard level);
lt_shard lt_shard_by_name(const char *name);

typedef struct lt_sharder lt_sharder;

/* For a model loaded with `model->sharding`, whose observer it becomes. With LT_SHARD_PARAMETERS it
 * has to be there before anything reads weights. The model and comm outlive it. */
lt_status lt_sharder_create(lt_model *model, lt_comm *comm, lt_sharder **out, lt_err *err);
/* What the exchange of gradients needs, once these have been allocated. */
lt_status lt_sharder_prepare_gradients(lt_sharder *sharder, lt_err *err);
/* Waits for what is under way. */
void lt_sharder_free(lt_sharder *sharder);

/* Before each micro-batch's lt_model_forward_backward: the first of a step replaces gradients, the
 * last one's are exchanged as they come. */
void lt_sharder_begin_micro_batch(lt_sharder *sharder, bool first, bool last);
/* What `accumulate` must be for the model: never where gradients are in parts. */
bool lt_sharder_accumulate(const lt_sharder *sharder, bool first);

/* Operations from now on see the gradients that this process steps summed over all. */
lt_status lt_sharder_finish_gradients(lt_sharder *sharder, lt_err *err);
/* Sums what a step comes to over all, in one exchange, in place and on the device: its `totals`,
 * f64 [3], and its `squares`, f64 [1], but these only where parts of the gradient are elsewhere. */
lt_status lt_sharder_sum(lt_sharder *sharder, lt_tensor totals, lt_tensor squares, lt_err *err);
/* After the optimizer: begins to gather the stepped weights. */
lt_status lt_sharder_begin_weights(lt_sharder *sharder, lt_err *err);
/* Whole weights, of all units that have a whole place; before they are read other than by a pass.
 */
lt_status lt_sharder_finish_weights(lt_sharder *sharder, lt_err *err);

/* Bytes on the device beside the model's own. */
uint64_t lt_sharder_plan(const lt_memory_plan *model, const lt_sharding *sharding);

#endif
