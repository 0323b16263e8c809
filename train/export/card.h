/* What a model card tells, and where it is found. Private to train/export/. */
#ifndef LT_TRAIN_EXPORT_CARD_H
#define LT_TRAIN_EXPORT_CARD_H

#include "train/export.h"

/* All owned; NULL or empty where nothing is known. */
typedef struct lt_card_facts {
    json_t *state;      /* trainer_state.json: Lathe's or the Hugging Face Trainer's */
    json_t *evaluation; /* results_*.json */
    lt_buffer config;   /* train_config.yaml */
    lt_buffer base;     /* the model that was trained, when it is one of the Hub: "org/name" */
} lt_card_facts;

/* The directory that was trained (the adapter's, else the model's) and the run around it. */
lt_status lt_card_facts_find(const lt_opened_model *opened, const lt_export_settings *settings,
                             lt_card_facts *out, lt_err *err);
void lt_card_facts_free(lt_card_facts *facts);
/* The value of a key of train_config.yaml, without quotes. False: it has none, or null. */
bool lt_card_setting(const lt_card_facts *facts, const char *key, lt_buffer *out);

#endif
