/* The rendezvous as the backends use it: all ranks meet, and from then on each hears when another
 * one dies or fails. NCCL's id comes that way too. */
#include <stdio.h>

#include "train/comm/internal.h"

/* Another rank's: of this one there is nothing to say. */
static void on_lost(void *context, const char *message)
{
    lt_comm_abort(context, message, 1);
}

lt_status lt_comm_meet(lt_comm *comm, const lt_comm_settings *settings, void *payload, size_t bytes,
                       lt_rendezvous **out, lt_err *err)
{
    const lt_rendezvous_settings rendezvous = {
        .rank = comm->rank,
        .world_size = comm->size,
        .host = comm->place.host,
        .address = comm->place.master_address,
        .port = comm->place.master_port,
        .port_name = comm->place.master_port_name,
        .version = LATHE_VERSION,
        .identity = settings->identity ? settings->identity : "",
        .stopped = settings->stopped,
        .lost = on_lost,
        .context = comm,
    };
    return lt_rendezvous_open(&rendezvous, payload, bytes, out, err);
}

void lt_comm_tell_end(const lt_comm *comm, lt_rendezvous *rendezvous, int exit_code)
{
    char who[96], message[192];
    lt_comm_rank_text(comm, comm->rank, who, sizeof who);
    snprintf(message, sizeof message, "%s has failed (exit code %d); its log says why", who,
             exit_code);
    lt_rendezvous_fail(rendezvous, message);
}

void lt_comm_tell_leaving(lt_rendezvous *rendezvous)
{
    lt_rendezvous_fail(rendezvous, "another rank has left after an error; its log says why");
}
