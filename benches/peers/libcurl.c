/* The peer: libcurl's multi interface with curl_multi_socket_action and epoll, as a C++ server would use it. 64 easy handles
 * made once and used again and again, connections kept, answers thrown away, no signals, no DNS.
 *
 *     libcurl URL SECONDS|xCHECKS
 *
 * Sends the bytes the engine sends: the session changes with each request, so its header list is made anew, the other
 * headers are shared. Each answer must be 200. */
#define _GNU_SOURCE
#include "../measure.h"
#include <curl/curl.h>
#include <sys/epoll.h>

enum { IN_FLIGHT = 64 };

typedef struct transfer {
    CURL *easy;
    struct curl_slist session; /* the head of its list; the rest is shared */
    char header[sizeof "X-Session-Id: " + SESSION_DIGITS];
    uint64_t began;
} transfer;

static CURLM *multi;
static int epoll;
static transfer transfers[IN_FLIGHT];
static uint64_t deadline = UINT64_MAX; /* of libcurl's one timer, in nanoseconds */
static uint64_t begun, ended, most = UINT64_MAX, end_at = UINT64_MAX;
static latencies all;
static char next_session[SESSION_DIGITS];

static size_t throw_away(char *data, size_t size, size_t count, void *user_data) {
    (void)data, (void)user_data;
    return size * count;
}

static int on_timer(CURLM *of, long timeout_ms, void *user_data) {
    (void)of, (void)user_data;
    deadline = timeout_ms < 0 ? UINT64_MAX : now_ns() + (uint64_t)timeout_ms * 1000000u;
    return 0;
}

static int on_socket(CURL *easy, curl_socket_t socket, int what, void *user_data, void *known) {
    (void)easy, (void)user_data;
    struct epoll_event event = {.data.fd = socket};
    if (what == CURL_POLL_REMOVE) {
        epoll_ctl(epoll, EPOLL_CTL_DEL, socket, &event);
        return 0;
    }
    event.events = (what & CURL_POLL_IN ? (uint32_t)EPOLLIN : 0) | (what & CURL_POLL_OUT ? (uint32_t)EPOLLOUT : 0);
    if (epoll_ctl(epoll, known ? EPOLL_CTL_MOD : EPOLL_CTL_ADD, socket, &event) == 0 && known == NULL) {
        curl_multi_assign(multi, socket, transfers);
    }
    return 0;
}

static void begin(transfer *next) {
    session_next(next_session);
    memcpy(next->header + sizeof "X-Session-Id: " - 1, next_session, SESSION_DIGITS);
    next->began = now_ns();
    begun++;
    need(curl_multi_add_handle(multi, next->easy) == CURLM_OK, "libcurl: add_handle");
}

static void prepare(transfer *it, const char *url, struct curl_slist *shared) {
    it->easy = curl_easy_init();
    need(it->easy != NULL, "libcurl: easy_init");
    memcpy(it->header, "X-Session-Id: ", sizeof "X-Session-Id: ");
    it->session = (struct curl_slist){it->header, shared};
    curl_easy_setopt(it->easy, CURLOPT_URL, url);
    curl_easy_setopt(it->easy, CURLOPT_HTTPHEADER, &it->session);
    curl_easy_setopt(it->easy, CURLOPT_HTTP_VERSION, (long)CURL_HTTP_VERSION_1_1);
    curl_easy_setopt(it->easy, CURLOPT_WRITEFUNCTION, throw_away);
    curl_easy_setopt(it->easy, CURLOPT_PRIVATE, it);
    curl_easy_setopt(it->easy, CURLOPT_NOSIGNAL, 1L);
    curl_easy_setopt(it->easy, CURLOPT_TIMEOUT_MS, 20000L);
    curl_easy_setopt(it->easy, CURLOPT_PROXY, "");
}

static void end_those_done(void) {
    int left;
    for (CURLMsg *message; (message = curl_multi_info_read(multi, &left)) != NULL;) {
        if (message->msg != CURLMSG_DONE) {
            continue;
        }
        transfer *of;
        long status = 0;
        CURLcode result = message->data.result;
        CURL *easy = message->easy_handle;
        curl_easy_getinfo(easy, CURLINFO_PRIVATE, &of);
        curl_easy_getinfo(easy, CURLINFO_RESPONSE_CODE, &status);
        if (result != CURLE_OK || status != 200) {
            void_run("libcurl: %s, status %ld", curl_easy_strerror(result), status);
        }
        uint64_t now = now_ns();
        latencies_add(&all, now - of->began);
        ended++;
        curl_multi_remove_handle(multi, easy);
        if (begun < most && now < end_at) {
            begin(of);
        }
    }
}

int main(int argc, char **argv) {
    need(argc == 3, "usage: libcurl URL SECONDS|xCHECKS");
    curl_global_init(CURL_GLOBAL_DEFAULT);
    session_set(next_session, 0);
    epoll = epoll_create1(EPOLL_CLOEXEC);
    multi = curl_multi_init();
    curl_multi_setopt(multi, CURLMOPT_SOCKETFUNCTION, on_socket);
    curl_multi_setopt(multi, CURLMOPT_TIMERFUNCTION, on_timer);
    curl_multi_setopt(multi, CURLMOPT_MAXCONNECTS, (long)IN_FLIGHT);
    struct curl_slist *shared = NULL;
    static const char *const headers[] = {"X-Real-Ip: " BENCH_IP, "X-Real-Path: " BENCH_PATH,
                                          "X-Real-Origin: " BENCH_ORIGIN, "X-Real-Ua: " BENCH_AGENT, "Accept:"};
    for (size_t i = 0; i < sizeof headers / sizeof *headers; i++) {
        shared = curl_slist_append(shared, headers[i]);
    }
    if (argv[2][0] == 'x') {
        most = strtoul(argv[2] + 1, NULL, 10);
    }
    uint64_t began = now_ns();
    if (argv[2][0] != 'x') {
        end_at = began + (uint64_t)(strtod(argv[2], NULL) * 1e9);
    }
    for (size_t i = 0; i < IN_FLIGHT && begun < most; i++) {
        prepare(&transfers[i], argv[1], shared);
        begin(&transfers[i]);
    }
    int running;
    while (ended < begun) {
        struct epoll_event ready[IN_FLIGHT];
        int wait_ms = -1;
        if (deadline != UINT64_MAX) {
            uint64_t now = now_ns();
            wait_ms = deadline <= now ? 0 : (int)((deadline - now + 999999u) / 1000000u);
        }
        int count = epoll_wait(epoll, ready, IN_FLIGHT, wait_ms);
        if (deadline <= now_ns()) {
            deadline = UINT64_MAX;
            curl_multi_socket_action(multi, CURL_SOCKET_TIMEOUT, 0, &running);
        }
        for (int i = 0; i < count; i++) {
            int what = (ready[i].events & (EPOLLIN | EPOLLHUP) ? CURL_CSELECT_IN : 0) |
                       (ready[i].events & EPOLLOUT ? CURL_CSELECT_OUT : 0) |
                       (ready[i].events & EPOLLERR ? CURL_CSELECT_ERR : 0);
            curl_multi_socket_action(multi, ready[i].data.fd, what, &running);
        }
        end_those_done();
    }
    printf("checks=%lu seconds=%.3f ", ended, (double)(now_ns() - began) / 1e9);
    latencies_print(&all);
    printf("\n");
    fflush(stdout);
    for (size_t i = 0; i < IN_FLIGHT; i++) {
        curl_easy_cleanup(transfers[i].easy);
    }
    curl_multi_cleanup(multi);
    curl_slist_free_all(shared);
    return 0;
}
