#include <alta_auth.h>
#include <stdio.h>

static void decided(void *client, const alta_auth_decision *decision) {
    printf("%s: %s\n", (const char *)client, decision->verdict == ALTA_AUTH_ALLOW ? "serve" : "refuse");
}
int main(void) {
    char error[256];
    alta_auth_engine *engine;
    alta_auth_config *config = alta_auth_config_new();
    alta_auth_config_set(config, "backend.url", "http://127.0.0.1:6000/auth", error, sizeof error);
    alta_auth_config_set(config, "default_action", "deny", error, sizeof error);
    if (alta_auth_engine_new(config, &engine, error, sizeof error)) return puts(error), 1;
    alta_auth_request check = ALTA_AUTH_REQUEST_INIT;
    check.session_id = alta_auth_str_of("viewer-1");
    check.query = alta_auth_str_of("token=123");
    int32_t status = alta_auth_submit(engine, &check, decided, "viewer-1", NULL);
    if (status == ALTA_AUTH_ERR_INVALID) puts("viewer-1: refuse");
    else if (status) puts(alta_auth_default_action(engine) == ALTA_AUTH_ALLOW ? "viewer-1: serve" : "viewer-1: refuse");
    alta_auth_engine_drain(engine, 5000);
    alta_auth_engine_free(engine);
}
