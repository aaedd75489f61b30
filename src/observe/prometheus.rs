//! The counters as Prometheus text.

use std::fmt::Write as _;

use super::{AddressStats, BOUNDS, Durations, EndpointStats, ShadowStats, Stats};
use crate::decision::{Cause, Origin};

impl Stats {
    /// In Prometheus' text format, version 0.0.4. Every line is a comment or begins with `alta_auth_`.
    pub fn prometheus(&self) -> String {
        let mut page = Page(String::with_capacity(4096));
        page.one("checks_submitted_total", "counter", "Checks accepted.", self.submitted);
        page.one("checks_completed_total", "counter", "Checks delivered.", self.completed);
        page.one("checks_cancelled_total", "counter", "Checks cancelled.", self.cancelled);
        page.one(
            "checks_pending",
            "gauge",
            "Checks accepted and neither delivered nor cancelled.",
            self.pending,
        );
        page.one(
            "checks_refused_total",
            "counter",
            "Checks and watches not accepted for want of room.",
            self.refused,
        );
        page.one(
            "checks_invalid_total",
            "counter",
            "Checks and watches not accepted as they cannot be asked about.",
            self.invalid,
        );
        page.one(
            "checks_coalesced_total",
            "counter",
            "Checks that shared another's request.",
            self.coalesced,
        );
        page.many(
            "decisions_total",
            "Decisions by verdict.",
            "verdict",
            [("allow", self.allowed), ("deny", self.denied)],
        );
        let origins = Origin::ALL.map(|origin| (origin.name(), self.origins[origin as usize]));
        page.many("decisions_by_origin_total", "Decisions by who gave them.", "origin", origins);
        let causes = Cause::ALL.map(|cause| (cause.name(), self.causes[cause as usize]));
        page.many("decisions_by_cause_total", "Decisions by why the backend gave none.", "cause", causes);
        page.durations("check_duration_seconds", "From submit to decision.", &self.latencies);
        page.one("exchanges_total", "counter", "Requests begun.", self.exchanges);
        page.one("retries_total", "counter", "Safe retries among the requests.", self.retries);
        page.one("hedges_total", "counter", "Requests beside one that was slow.", self.hedges);
        page.one("hedges_won_total", "counter", "Those that were answered first.", self.hedges_won);
        page.one("decisions_remembered", "gauge", "Decisions remembered.", self.remembered);
        page.one("watches_open", "gauge", "Watches.", self.watching);
        page.one(
            "watch_decisions_total",
            "counter",
            "Decisions delivered to watches: first ones and changes.",
            self.watch_decisions,
        );
        page.one("revocations_total", "counter", "Revocations: of a session, a user, or all.", self.revoked);
        page.one(
            "replies_from_cache_total",
            "counter",
            "Replies out of a cache before the backend, never reused.",
            self.replies_from_cache,
        );
        page.one(
            "texts_dropped_total",
            "counter",
            "Replies with a user id or location not fit to pass on.",
            self.texts_dropped,
        );
        page.one(
            "checks_limited_total",
            "counter",
            "Checks, and first decisions of watches, that limit.per_ip denied.",
            self.limited,
        );
        page.one(
            "io_thread_restarts_total",
            "counter",
            "Defects of the library that ended the work of an I/O thread, which began anew.",
            self.restarts,
        );
        page.one("connections_opened_total", "counter", "Connections established.", self.connections_opened);
        page.one("connections_open", "gauge", "Connections.", self.connections_open);
        page.one("connections_idle", "gauge", "Connections without an exchange.", self.connections_idle);
        page.one(
            "connections_waiting",
            "gauge",
            "Exchanges waiting for a connection.",
            self.connections_waiting,
        );
        let each = |figure: fn(&EndpointStats) -> u64| {
            self.endpoints.iter().map(move |one| (one.endpoint.as_str(), figure(one))).collect::<Vec<_>>()
        };
        let (open, opened) = (each(|one| one.breaker_open.into()), each(|one| one.breaker_opened));
        page.labelled("breaker_open", "gauge", "Whether the backend is left alone.", "endpoint", open);
        page.labelled(
            "breaker_opened_total",
            "counter",
            "How often the breaker has opened.",
            "endpoint",
            opened,
        );
        let (exchanges, connections) = (each(|one| one.exchanges), each(|one| one.connections_open));
        page.labelled(
            "endpoint_exchanges_total",
            "counter",
            "Requests begun, by backend.",
            "endpoint",
            exchanges,
        );
        page.labelled(
            "endpoint_connections_open",
            "gauge",
            "Connections, by backend.",
            "endpoint",
            connections,
        );
        page.addresses(
            "address_breaker_open",
            "gauge",
            "Whether this address of a backend's name is left alone.",
            &self.endpoints,
            |one| one.breaker_open.into(),
        );
        page.addresses(
            "address_breaker_opened_total",
            "counter",
            "How often the breaker of this address has opened.",
            &self.endpoints,
            |one| one.breaker_opened,
        );
        page.addresses(
            "address_exchanges_total",
            "counter",
            "Requests that ended at this address, where the name has several.",
            &self.endpoints,
            |one| one.exchanges,
        );
        if let Some(shadow) = &self.shadow {
            page.shadow(shadow);
        }
        page.0
    }
}

struct Page(String);

impl Page {
    fn head(&mut self, name: &str, kind: &str, help: &str) {
        let _ = writeln!(self.0, "# HELP alta_auth_{name} {help}\n# TYPE alta_auth_{name} {kind}");
    }

    fn one(&mut self, name: &str, kind: &str, help: &str, value: u64) {
        self.head(name, kind, help);
        let _ = writeln!(self.0, "alta_auth_{name} {value}");
    }

    fn many<const N: usize>(&mut self, name: &str, help: &str, label: &str, values: [(&str, u64); N]) {
        self.labelled(name, "counter", help, label, values);
    }

    fn shadow(&mut self, shadow: &ShadowStats) {
        let outcomes = [
            ("agreed", shadow.agreed),
            ("differed", shadow.differed),
            ("denied", shadow.denied),
            ("allowed", shadow.allowed),
            ("unavailable", shadow.unavailable),
            ("skipped", shadow.skipped),
        ];
        self.many(
            "shadow_answers_total",
            "The backend's answers by what the shadow said.",
            "shadow",
            outcomes,
        );
        let each = |figure: fn(&EndpointStats) -> u64| {
            shadow.endpoints.iter().map(move |one| (one.endpoint.as_str(), figure(one))).collect::<Vec<_>>()
        };
        let open = each(|one| one.breaker_open.into());
        self.labelled("shadow_breaker_open", "gauge", "Whether the shadow is left alone.", "endpoint", open);
        let exchanges = each(|one| one.exchanges);
        let help = "Requests to the shadow begun.";
        self.labelled("shadow_exchanges_total", "counter", help, "endpoint", exchanges);
        let connections = each(|one| one.connections_open);
        let help = "Connections to the shadow.";
        self.labelled("shadow_connections_open", "gauge", help, "endpoint", connections);
    }

    fn durations(&mut self, name: &str, help: &str, durations: &Durations) {
        self.head(name, "histogram", help);
        let mut so_far = 0;
        let bounds = BOUNDS.iter().map(|&bound| seconds(bound)).chain(["+Inf".to_owned()]);
        for (bound, count) in bounds.zip(durations.classes) {
            so_far += count;
            let _ = writeln!(self.0, "alta_auth_{name}_bucket{{le=\"{bound}\"}} {so_far}");
        }
        let sum = seconds(durations.microseconds);
        let _ = writeln!(self.0, "alta_auth_{name}_sum {sum}\nalta_auth_{name}_count {so_far}");
    }

    fn labelled<'a>(
        &mut self,
        name: &str,
        kind: &str,
        help: &str,
        label: &str,
        values: impl IntoIterator<Item = (&'a str, u64)>,
    ) {
        self.head(name, kind, help);
        for (of, value) in values {
            let _ = writeln!(self.0, "alta_auth_{name}{{{label}=\"{}\"}} {value}", escaped(of));
        }
    }

    fn addresses(
        &mut self,
        name: &str,
        kind: &str,
        help: &str,
        endpoints: &[EndpointStats],
        figure: fn(&AddressStats) -> u64,
    ) {
        self.head(name, kind, help);
        for endpoint in endpoints {
            let of = escaped(&endpoint.endpoint);
            for one in &endpoint.addresses {
                let (address, value) = (one.address, figure(one));
                let _ =
                    writeln!(self.0, "alta_auth_{name}{{endpoint=\"{of}\",address=\"{address}\"}} {value}");
            }
        }
    }
}

fn escaped(text: &str) -> String {
    text.replace('\\', "\\\\").replace('"', "\\\"").replace('\n', "\\n")
}

/// Exactly, and without an exponent.
fn seconds(microseconds: u64) -> String {
    let text = format!("{}.{:06}", microseconds / 1_000_000, microseconds % 1_000_000);
    text.trim_end_matches('0').trim_end_matches('.').to_owned()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_line_is_a_comment_or_a_sample() {
        let mut stats = Stats { submitted: 7, denied: 3, ..Stats::default() };
        stats.endpoints = vec![EndpointStats {
            endpoint: "unix:/a\"b\\c".to_owned(),
            breaker_open: true,
            addresses: vec![AddressStats {
                address: [192, 0, 2, 1].into(),
                breaker_open: true,
                breaker_opened: 3,
                exchanges: 40,
            }],
            ..EndpointStats::default()
        }];
        stats.causes[Cause::Timeout as usize] = 2;
        stats.latencies.classes[1] = 2;
        stats.latencies.classes[14] = 1;
        stats.latencies.microseconds = 12_000_350;
        let page = stats.prometheus();
        for line in page.lines() {
            let sample = line.strip_prefix("alta_auth_").and_then(|line| line.rsplit_once(' '));
            let is_sample = sample.is_some_and(|(_, value)| value.parse::<f64>().is_ok());
            assert!(
                line.starts_with("# HELP alta_auth_") || line.starts_with("# TYPE alta_auth_") || is_sample
            );
        }
        assert!(page.contains("\nalta_auth_decisions_by_cause_total{cause=\"timeout\"} 2\n"));
        assert!(page.contains("\nalta_auth_decisions_total{verdict=\"deny\"} 3\n"));
        assert!(page.contains("\nalta_auth_checks_submitted_total 7\n"));
        assert!(page.contains("\nalta_auth_breaker_open{endpoint=\"unix:/a\\\"b\\\\c\"} 1\n"), "{page}");
        for line in ["breaker_open{N} 1", "breaker_opened_total{N} 3", "exchanges_total{N} 40"] {
            let line = line.replace('N', "endpoint=\"unix:/a\\\"b\\\\c\",address=\"192.0.2.1\"");
            assert!(page.contains(&format!("\nalta_auth_address_{line}\n")), "{line}: {page}");
        }
        for line in [
            "_bucket{le=\"0.00005\"} 0",
            "_bucket{le=\"0.0002\"} 2",
            "_bucket{le=\"10\"} 2",
            "_bucket{le=\"+Inf\"} 3",
            "_sum 12.00035",
            "_count 3",
        ] {
            assert!(page.contains(&format!("\nalta_auth_check_duration_seconds{line}\n")), "{line}: {page}");
        }
        assert!(page.ends_with('\n'));
    }
}
