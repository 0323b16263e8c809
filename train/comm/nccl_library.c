/* Opening libnccl. Without its header at build time there is nothing here. */
#ifdef LT_HAVE_NCCL

#include "train/comm/nccl_library.h"

#include <dlfcn.h>
#include <stdlib.h>
#include <string.h>

#include "kernels/devices.h"

/* NVSwitches can add on their own way (NVLS), in an order that differs from call to call
 * (github.com/NVIDIA/nccl, issue 1497). What is left adds in the order of a ring or a tree, which
 * follows from the topology alone: the same machines give the same bits. It has to be set before
 * the library reads its settings; whoever has chosen for himself keeps his choice. */
static void keep_sums_in_order(void)
{
    if (!getenv("NCCL_ALGO")) setenv("NCCL_NVLS_ENABLE", "0", 0);
}

static lt_status find_functions(void *library, const char *file, lt_nccl *nccl, lt_err *err)
{
    const struct {
        void *slot;
        const char *name;
    } symbols[] = {
#define LT_NCCL_SYMBOL(ours, its) {&nccl->ours, #its},
        LT_NCCL_FUNCTIONS(LT_NCCL_SYMBOL)
#undef LT_NCCL_SYMBOL
    };
    for (size_t i = 0; i < sizeof symbols / sizeof *symbols; i++) {
        void *symbol = dlsym(library, symbols[i].name);
        if (!symbol)
            return lt_fail(err, LT_ERR_UNSUPPORTED,
                           "NCCL is too old: its %s lacks %s; install NCCL 2.14 or newer", file,
                           symbols[i].name);
        memcpy(symbols[i].slot, &symbol, sizeof symbol);
    }
    return LT_OK;
}

lt_status lt_nccl_load(const lt_nccl **out, lt_err *err)
{
    static lt_nccl loaded;
    lt_nccl nccl = {0};
    const char *file = NULL;
    *out = &loaded;
    if (loaded.version) return LT_OK;
    keep_sums_in_order();
    void *library = lt_cuda_open_library(lt_nccl_names, &file);
    if (!library)
        return lt_fail(err, LT_ERR_UNSUPPORTED,
                       "%s is not found: install NCCL, or name its folder in LD_LIBRARY_PATH; or "
                       "start with mpirun, so that MPI carries what the GPUs exchange",
                       lt_nccl_names[0]);
    LT_TRY(find_functions(library, file, &nccl, err));
    if (nccl.get_version(&nccl.version) != ncclSuccess || nccl.version <= 0)
        return lt_fail(err, LT_ERR_UNSUPPORTED, "%s does not say its version", file);
    loaded = nccl;
    return LT_OK;
}

#endif
