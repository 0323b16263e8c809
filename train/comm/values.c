/* Values of the host: sums, texts, and what the ranks must agree on. Built on the backend's `host`.
 */
#include <inttypes.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "base/checked.h"
#include "train/comm/internal.h"

static lt_status on_host(lt_comm *comm, lt_collective collective, lt_err *err)
{
    if (collective.count == 0) return LT_OK;
    lt_flight_begin(&comm->flight, &collective, true);
    lt_status status = comm->ops->host(comm, &collective, err);
    if (status != LT_OK) comm->failed = true;
    return status;
}

static lt_status reduce(lt_comm *comm, lt_comm_operation operation, double *values, int count,
                        lt_err *err)
{
    const lt_collective collective = {
        .operation = operation, .dtype = LT_F64, .count = count, .from = values, .to = values};
    return on_host(comm, collective, err);
}

lt_status lt_comm_sum(lt_comm *comm, double *values, int count, lt_err *err)
{
    return reduce(comm, LT_COMM_ALL_REDUCE, values, count, err);
}

lt_status lt_comm_max(lt_comm *comm, double *values, int count, lt_err *err)
{
    return reduce(comm, LT_COMM_MAX, values, count, err);
}

lt_status lt_comm_barrier(lt_comm *comm, lt_err *err)
{
    double nothing = 0;
    return reduce(comm, LT_COMM_MAX, &nothing, 1, err);
}

lt_status lt_comm_gather_bytes(lt_comm *comm, const void *mine, size_t bytes, void *all,
                               lt_err *err)
{
    const lt_collective collective = {.operation = LT_COMM_ALL_GATHER,
                                      .dtype = LT_U8,
                                      .count = (int64_t)bytes,
                                      .from = mine,
                                      .to = all};
    return on_host(comm, collective, err);
}

static lt_status broadcast_bytes(lt_comm *comm, int root, void *data, size_t bytes, lt_err *err)
{
    const lt_collective collective = {.operation = LT_COMM_BROADCAST,
                                      .dtype = LT_U8,
                                      .root = root,
                                      .count = (int64_t)bytes,
                                      .from = data,
                                      .to = data};
    return on_host(comm, collective, err);
}

lt_status lt_comm_share_text(lt_comm *comm, const char *text, char **out, lt_err *err)
{
    uint64_t length = comm->rank == 0 ? strlen(text) : 0;
    lt_status status = LT_OK;
    *out = NULL;
    LT_TRY(broadcast_bytes(comm, 0, &length, sizeof length, err));
    char *shared = malloc(length + 1);
    if (!shared) status = lt_fail_nomem(err, length + 1, "a text of rank 0");
    LT_TRY_GOTO(status, lt_comm_agree(comm, status, err), done);
    if (comm->rank == 0) memcpy(shared, text, length);
    shared[length] = '\0';
    LT_TRY_GOTO(status, broadcast_bytes(comm, 0, shared, length, err), done);
    *out = shared;
    return LT_OK;
done:
    free(shared);
    return status;
}

/* --- Agreement ---------------------------------------------------------------------------------
 */

/* All ranks get the message of the lowest one that failed, as that one wrote it. *failing: which,
 * or -1. */
static lt_status share_failure(lt_comm *comm, lt_status mine, lt_err *err, int *failing)
{
    const lt_comm_vote vote = {.status = mine};
    lt_err shared = {0};
    *failing = -1;
    if (mine != LT_OK && err) shared = *err;
    LT_TRY(lt_comm_gather_bytes(comm, &vote, sizeof vote, comm->votes, err));
    for (int rank = comm->size - 1; rank >= 0; rank--)
        if (comm->votes[rank].status != LT_OK) *failing = rank;
    if (*failing < 0) return LT_OK;
    LT_TRY(broadcast_bytes(comm, *failing, &shared, sizeof shared, err));
    return lt_fail(err, (lt_status)comm->votes[*failing].status, "%s", shared.message);
}

lt_status lt_comm_agree(lt_comm *comm, lt_status mine, lt_err *err)
{
    char who[96];
    int failing;
    if (comm->size == 1) return mine;
    lt_status status = share_failure(comm, mine, err, &failing);
    if (failing <= 0) return status;
    lt_comm_rank_text(comm, failing, who, sizeof who);
    return lt_fail_context(err, "%s", who);
}

/* --- The same settings everywhere --------------------------------------------------------------
 */

/* One line "name: value" of a text; zero at its end. */
typedef struct identity_line {
    const char *text;
    int length, name_length;
} identity_line;

static identity_line line_at(const char *text)
{
    int length = (int)strcspn(text, "\n");
    const char *colon = memchr(text, ':', (size_t)length);
    return (identity_line){text, length, colon ? (int)(colon - text) : length};
}

static const char *line_after(identity_line line)
{
    return line.text + line.length + (line.text[line.length] == '\n');
}

static bool find_line(const char *text, identity_line like, identity_line *out)
{
    for (; *text; text = line_after(*out)) {
        *out = line_at(text);
        if (out->name_length == like.name_length &&
            memcmp(out->text, like.text, (size_t)like.name_length) == 0)
            return true;
    }
    return false;
}

/* "has no learning_rate" or "has learning_rate: 0.0001" */
static void describe(bool found, identity_line line, identity_line like, char *out, size_t size)
{
    enum { LONGEST = 300 };
    if (found)
        snprintf(out, size, "has %.*s", line.length < LONGEST ? line.length : LONGEST, line.text);
    else
        snprintf(out, size, "has no %.*s", like.name_length < LONGEST ? like.name_length : LONGEST,
                 like.text);
}

static lt_status fail_different(const lt_comm *comm, const char *mine, const char *theirs,
                                lt_err *err)
{
    char me[96], zero[96];
    lt_comm_rank_text(comm, comm->rank, me, sizeof me);
    lt_comm_rank_text(comm, 0, zero, sizeof zero);
    return lt_fail(err, LT_ERR_USAGE,
                   "%s %s, %s %s; all processes need the same command, data and program", me, mine,
                   zero, theirs);
}

static lt_status compare_lines(const lt_comm *comm, const char *mine, const char *theirs,
                               lt_err *err)
{
    char here[320], there[320];
    identity_line line, other;
    for (const char *at = theirs; *at; at = line_after(line)) {
        line = line_at(at);
        bool found = find_line(mine, line, &other);
        if (found && line.length == other.length &&
            memcmp(line.text, other.text, (size_t)line.length) == 0)
            continue;
        describe(found, other, line, here, sizeof here);
        describe(true, line, line, there, sizeof there);
        return fail_different(comm, here, there, err);
    }
    for (const char *at = mine; *at; at = line_after(line)) {
        line = line_at(at);
        if (find_line(theirs, line, &other)) continue;
        describe(true, line, line, here, sizeof here);
        describe(false, other, line, there, sizeof there);
        return fail_different(comm, here, there, err);
    }
    return LT_OK;
}

lt_status lt_comm_compare_identity(lt_comm *comm, const char *identity, lt_err *err)
{
    char *theirs = NULL;
    int failing;
    if (comm->size == 1) return LT_OK;
    LT_TRY(lt_comm_share_text(comm, identity, &theirs, err));
    lt_status status = compare_lines(comm, identity, theirs, err);
    free(theirs);
    return share_failure(comm, status, err, &failing);
}

/* --- The same collectives everywhere -----------------------------------------------------------
 */

static bool same_sequence(lt_comm_vote a, lt_comm_vote b)
{
    return a.hash == b.hash && a.begun == b.begun;
}

/* The lowest rank whose sequence most ranks have. */
static int most_common(const lt_comm_vote *votes, int size)
{
    int best = 0, most = 0;
    for (int i = 0; i < size; i++) {
        int same = 0;
        for (int j = 0; j < size; j++)
            same += same_sequence(votes[i], votes[j]);
        if (same > most) {
            best = i;
            most = same;
        }
    }
    return best;
}

static lt_status compare_sequences(const lt_comm *comm, lt_err *err)
{
    const lt_comm_vote usual = comm->votes[most_common(comm->votes, comm->size)];
    char who[512] = "", name[96];
    size_t length = 0;
    for (int rank = 0; rank < comm->size; rank++) {
        if (same_sequence(comm->votes[rank], usual)) continue;
        lt_comm_rank_text(comm, rank, name, sizeof name);
        int more = snprintf(who + length, sizeof who - length, "%s%s after %" PRIu64,
                            length ? ", " : "", name, comm->votes[rank].begun);
        if (more < 0 || (size_t)more >= sizeof who - length) break; /* these are enough */
        length += (size_t)more;
    }
    if (!length) return LT_OK;
    return lt_fail(
        err, LT_ERR_INTERNAL,
        "the processes do not do the same collectives: %s, others after %" PRIu64
        "; this is a bug in Lathe, please report it with the last collectives, which are "
        "in the log of each rank",
        who, usual.begun);
}

lt_status lt_comm_check_sequence(lt_comm *comm, lt_err *err)
{
    const lt_comm_vote vote = {.hash = comm->flight.hash,
                               .begun = atomic_load(&comm->flight.begun)};
    lt_err problem = {0};
    if (comm->size == 1) return LT_OK;
    LT_TRY(lt_comm_gather_bytes(comm, &vote, sizeof vote, comm->votes, err));
    lt_status status = compare_sequences(comm, &problem);
    if (status == LT_OK) return LT_OK;
    lt_comm_write_record(comm, problem.message);
    return lt_fail(err, status, "%s", problem.message);
}
