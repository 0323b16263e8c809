#include "cli/common_options.h"

#include <string.h>

lt_dtype lt_cli_file_dtype(const char *name)
{
    if (name[0] == 'b') return LT_BF16;
    return strstr(name, "16") ? LT_F16 : LT_F32;
}
