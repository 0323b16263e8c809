/* The table of estimates. */
#include "train/scaling.h"

static lt_status describe_row(const lt_scaling_row *row, lt_buffer *out, lt_err *err)
{
    const lt_cluster *c = row->cluster;
    const lt_step_time t = lt_predict_step(c, &row->work);
    return lt_buffer_printf(out, err,
                            "             %-9s %8.3f %8.3f %10.3f %9.3f %8.3f %9.0f %% %11.0f "
                            "%6.1f of %-3.0f %-3s  %s\n",
                            c->name, t.total, t.compute, t.optimizer, t.communication, t.exposed,
                            100 * t.efficiency, row->work.tokens * c->devices / t.total,
                            (double)row->work.memory / 1e9, (double)c->memory / 1e9,
                            row->work.memory <= c->memory ? "yes" : "no", t.limit);
}

lt_status lt_describe_scaling(const lt_scaling_row *rows, int count, lt_buffer *out, lt_err *err)
{
    LT_TRY(lt_buffer_append_text(
        out,
        "clusters     estimates from published rates, none of them measured here; every GPU has "
        "the batch above\n"
        "             name        step s  compute  optimizer  exchange  exposed  efficiency    "
        "tokens/s  GB a GPU  fits limit\n",
        err));
    for (int i = 0; i < count; i++)
        LT_TRY(describe_row(&rows[i], out, err));
    for (int i = 0; i < count; i++)
        if (rows[i].advice[0])
            LT_TRY(lt_buffer_printf(out, err, "             %s: %s\n", rows[i].cluster->name,
                                    rows[i].advice));
    return LT_OK;
}
