/* Batches, in callback and in queue mode. */
#include "support.h"

#include <stdio.h>
#include <stdlib.h>
#include <string.h>

enum { ITEMS = 10, ROOM = 160 };

/* Requests laid out with a stride of their own, as a host built against a later header would. */
typedef struct batch {
    size_t stride;
    _Alignas(8) unsigned char room[ITEMS * ROOM];
    char sessions[ITEMS][8];
} batch;

static alta_auth_request *item(batch *all, size_t i) {
    return (alta_auth_request *)(void *)(all->room + i * all->stride);
}

static void batch_init(batch *all, size_t stride) {
    memset(all, 0, sizeof *all);
    all->stride = stride;
    for (size_t i = 0; i < ITEMS; i++) {
        snprintf(all->sessions[i], sizeof all->sessions[i], "s%zu", i);
        *item(all, i) = ask(all->sessions[i], "token=123");
        item(all, i)->struct_size = (uint32_t)stride;
    }
}

/* Submits in both modes; those accepted must be delivered with their own user_data, the others must not. */
static void run_batch(alta_auth_engine *engine, batch *all, const int32_t *expected) {
    alta_auth_queue *queue = queue_on(engine);
    alta_auth_completion done[ITEMS];
    int32_t statuses[ITEMS];
    void *pointers[ITEMS];
    seen places[ITEMS];
    sink to;
    size_t accepted = 0;
    sink_init(&to);
    for (size_t i = 0; i < ITEMS; i++) {
        statuses[i] = 77;
        pointers[i] = &statuses[i];
        accepted += expected[i] == ALTA_AUTH_OK;
    }
    CHECK_EQ(alta_auth_queue_submit_batch(queue, item(all, 0), ITEMS, pointers, statuses), accepted);
    reap_all(queue, done, accepted);
    char delivered[ITEMS] = {0};
    for (size_t i = 0; i < accepted; i++) {
        delivered[(int32_t *)done[i].user_data - statuses]++;
    }
    for (size_t i = 0; i < ITEMS; i++) {
        if (statuses[i] != expected[i]) {
            fail(__FILE__, __LINE__, "item %zu: %d, not %d", i, (int)statuses[i], (int)expected[i]);
        }
        CHECK_EQ(delivered[i], expected[i] == ALTA_AUTH_OK);
        statuses[i] = 77;
        seen_init(&places[i], &to);
        pointers[i] = &places[i];
    }
    CHECK_EQ(alta_auth_submit_batch(engine, item(all, 0), ITEMS, on_batched, pointers, statuses), accepted);
    sink_wait(&to, accepted);
    CHECK_EQ(alta_auth_engine_drain(engine, (uint32_t)deadline_ms()), ALTA_AUTH_OK);
    for (size_t i = 0; i < ITEMS; i++) {
        CHECK_EQ(statuses[i], expected[i]);
        CHECK_EQ(places[i].times, expected[i] == ALTA_AUTH_OK);
    }
    alta_auth_queue_free(queue);
    sink_destroy(&to);
}

static void run_one(size_t stride, void (*spoil)(batch *), size_t spoilt, int32_t status) {
    backend *b = backend_start();
    alta_auth_engine *engine = engine_with(backend_url(b), NULL);
    batch *all = malloc(sizeof *all);
    CHECK(all != NULL);
    int32_t expected[ITEMS] = {0};
    batch_init(all, stride);
    if (spoil) {
        spoil(all);
        expected[spoilt] = status;
    }
    run_batch(engine, all, expected);
    free(all);
    alta_auth_engine_free(engine);
    backend_stop(b);
}

CASE(batch_accepts_all) {
    run_one(sizeof(alta_auth_request), NULL, 0, 0);
}

CASE(batch_stride_is_the_first_struct_size) {
    run_one(ROOM, NULL, 0, 0);
}

static void spoil_session(batch *all) {
    item(all, 3)->session_id.len = 0;
}
static void spoil_first_session(batch *all) {
    item(all, 0)->session_id.len = 0;
}
static void spoil_last_flags(batch *all) {
    item(all, ITEMS - 1)->flags = 1U << 31;
}
static void spoil_size(batch *all) {
    item(all, 4)->struct_size = sizeof(alta_auth_request);
}
static void spoil_size_to_0(batch *all) {
    item(all, 4)->struct_size = 0;
}
static void spoil_tail(batch *all) {
    all->room[5 * all->stride + all->stride - 1] = 1;
}

CASE(batch_one_bad_item_does_not_spoil_the_others) {
    run_one(sizeof(alta_auth_request), spoil_session, 3, ALTA_AUTH_ERR_INVALID);
    run_one(sizeof(alta_auth_request), spoil_first_session, 0, ALTA_AUTH_ERR_INVALID);
    run_one(sizeof(alta_auth_request), spoil_last_flags, ITEMS - 1, ALTA_AUTH_ERR_UNSUPPORTED);
}

CASE(batch_wrong_struct_size_spoils_its_item) {
    run_one(ROOM, spoil_size, 4, ALTA_AUTH_ERR_INVALID);
    run_one(sizeof(alta_auth_request), spoil_size_to_0, 4, ALTA_AUTH_ERR_INVALID);
    run_one(ROOM, spoil_tail, 5, ALTA_AUTH_ERR_UNSUPPORTED);
}

static void refused_whole(alta_auth_engine *engine, const alta_auth_request *first, size_t count, int32_t status) {
    alta_auth_queue *queue = queue_on(engine);
    int32_t statuses[ITEMS];
    for (int mode = 0; mode < 2; mode++) {
        for (size_t i = 0; i < ITEMS; i++) {
            statuses[i] = 77;
        }
        CHECK_EQ(mode == 0 ? alta_auth_submit_batch(engine, first, count, on_batched, NULL, statuses)
                           : alta_auth_queue_submit_batch(queue, first, count, NULL, statuses),
                 0);
        for (size_t i = 0; i < ITEMS; i++) {
            CHECK_EQ(statuses[i], i < count ? status : 77);
        }
    }
    alta_auth_queue_free(queue);
}

CASE(batch_wrong_struct_size_in_the_first_spoils_all) {
    backend *b = backend_start();
    alta_auth_engine *engine = engine_with(backend_url(b), NULL);
    batch *all = malloc(sizeof *all);
    CHECK(all != NULL);
    static const uint32_t bad_sizes[] = {0, 120, sizeof(alta_auth_request) + 4};
    for (size_t i = 0; i < sizeof bad_sizes / sizeof *bad_sizes; i++) {
        batch_init(all, sizeof(alta_auth_request));
        item(all, 0)->struct_size = bad_sizes[i];
        refused_whole(engine, item(all, 0), ITEMS, ALTA_AUTH_ERR_INVALID);
    }
    CHECK_EQ(stats_of(engine).submitted, 0);
    free(all);
    alta_auth_engine_free(engine);
    backend_stop(b);
}

CASE(batch_count_times_stride_is_checked) {
    backend *b = backend_start();
    alta_auth_engine *engine = engine_with(backend_url(b), NULL);
    alta_auth_queue *queue = queue_on(engine);
    alta_auth_request request = ask("s", "token=123");
    static const size_t counts[] = {SIZE_MAX, SIZE_MAX / 2, SIZE_MAX / 128 + 1, SIZE_MAX / 128, SIZE_MAX / 256 + 1};
    for (size_t i = 0; i < sizeof counts / sizeof *counts; i++) {
        CHECK_EQ(alta_auth_submit_batch(engine, &request, counts[i], on_batched, NULL, NULL), 0);
        CHECK_EQ(alta_auth_queue_submit_batch(queue, &request, counts[i], NULL, NULL), 0);
    }
    CHECK_EQ(alta_auth_submit_batch(engine, &request, 0, on_batched, NULL, NULL), 0);
    CHECK_EQ(alta_auth_queue_submit_batch(queue, &request, 0, NULL, NULL), 0);
    CHECK_EQ(stats_of(engine).submitted, 0);
    alta_auth_queue_free(queue);
    alta_auth_engine_free(engine);
    backend_stop(b);
}

static gate *nulls_done;
static size_t nulls_seen;

static void on_null(void *user_data, const alta_auth_decision *decision) {
    CHECK(user_data == NULL);
    CHECK_EQ(decision->verdict, ALTA_AUTH_ALLOW);
    if (++nulls_seen == ITEMS) { /* one callback thread */
        gate_open(nulls_done);
    }
}

CASE(batch_user_data_null_means_all_null) {
    backend *b = backend_start();
    alta_auth_engine *engine = engine_with(backend_url(b), NULL);
    alta_auth_queue *queue = queue_on(engine);
    batch *all = malloc(sizeof *all);
    CHECK(all != NULL);
    batch_init(all, sizeof(alta_auth_request));
    nulls_done = gate_new();
    CHECK_EQ(alta_auth_submit_batch(engine, item(all, 0), ITEMS, on_null, NULL, NULL), ITEMS);
    CHECK(gate_wait(nulls_done));
    alta_auth_completion done[ITEMS];
    memset(done, 0xA5, sizeof done);
    CHECK_EQ(alta_auth_queue_submit_batch(queue, item(all, 0), ITEMS, NULL, NULL), ITEMS);
    reap_all(queue, done, ITEMS);
    for (size_t i = 0; i < ITEMS; i++) {
        CHECK(done[i].user_data == NULL);
    }
    free(all);
    alta_auth_queue_free(queue);
    alta_auth_engine_free(engine);
    gate_free(nulls_done);
    backend_stop(b);
}

CASE(batch_beyond_capacity) {
    backend *b = backend_start();
    reply held = {.status = 200, .hold = true};
    backend_rule(b, "123", held);
    alta_auth_engine *engine = engine_with(backend_url(b), "inbox.capacity", "6", NULL);
    alta_auth_queue *queue = queue_on(engine);
    batch *all = malloc(sizeof *all);
    CHECK(all != NULL);
    batch_init(all, sizeof(alta_auth_request));
    int32_t statuses[ITEMS];
    CHECK_EQ(alta_auth_queue_submit_batch(queue, item(all, 0), ITEMS, NULL, statuses), 6);
    size_t full = 0;
    for (size_t i = 0; i < ITEMS; i++) {
        CHECK(statuses[i] == ALTA_AUTH_OK || statuses[i] == ALTA_AUTH_ERR_FULL);
        full += statuses[i] == ALTA_AUTH_ERR_FULL;
    }
    CHECK_EQ(full, 4);
    CHECK_EQ(stats_of(engine).refused, 4);
    CHECK_EQ(stats_of(engine).pending, 6);
    backend_release(b, "123");
    alta_auth_completion done[6];
    reap_all(queue, done, 6);
    free(all);
    alta_auth_queue_free(queue);
    alta_auth_engine_free(engine);
    backend_stop(b);
}

CASE(batch_after_shutdown) {
    backend *b = backend_start();
    alta_auth_engine *engine = engine_with(backend_url(b), NULL);
    alta_auth_queue *queue = queue_on(engine);
    batch *all = malloc(sizeof *all);
    CHECK(all != NULL);
    batch_init(all, sizeof(alta_auth_request));
    CHECK_EQ(alta_auth_engine_shutdown(engine, 0), ALTA_AUTH_OK);
    int32_t statuses[ITEMS] = {0};
    CHECK_EQ(alta_auth_submit_batch(engine, item(all, 0), ITEMS, on_batched, NULL, statuses), 0);
    for (size_t i = 0; i < ITEMS; i++) {
        CHECK_EQ(statuses[i], ALTA_AUTH_ERR_CLOSED);
        statuses[i] = 0;
    }
    CHECK_EQ(alta_auth_queue_submit_batch(queue, item(all, 0), ITEMS, NULL, statuses), 0);
    for (size_t i = 0; i < ITEMS; i++) {
        CHECK_EQ(statuses[i], ALTA_AUTH_ERR_CLOSED);
    }
    free(all);
    alta_auth_queue_free(queue);
    alta_auth_engine_free(engine);
    backend_stop(b);
}
