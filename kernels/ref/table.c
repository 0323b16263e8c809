#include "kernels/ref/ref.h"

void REF(fill)(lt_ops *ops)
{
#define LT_SET(name, args) ops->name = REF(name);
    LT_OPERATIONS(LT_SET)
#undef LT_SET
}
