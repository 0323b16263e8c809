/* Text to batches: the tokenizer, records and templates, the dataset store, the loader. */
#ifndef LT_DATA_PIPELINE_H
#define LT_DATA_PIPELINE_H

#include "data_pipeline/dataset.h"
#include "data_pipeline/records.h"
#include "data_pipeline/tokenizer.h"

#endif
