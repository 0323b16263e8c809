/* What the files that show models to people share. Private to model/. */
#ifndef LT_MODEL_INSPECT_H
#define LT_MODEL_INSPECT_H

#include <stdio.h>

#include "model/model.h"

void lt_print_config(const lt_model_config *config, FILE *out);

/* Text from a file, where what could steer a terminal is shown as '?'; padded to `width`. */
void lt_print_name(const char *name, int width, FILE *out);

#endif
