//! The peer: hyper-util's legacy client on a current-thread runtime, 64 tasks with one exchange in flight each.
//!
//!     hyper_util URL SECONDS
//!
//! Sends the bytes the engine sends; the session changes with each request. Each answer must be 200. Prints one line, as
//! the programs in C do.

use std::cell::{Cell, RefCell};
use std::error::Error;
use std::rc::Rc;
use std::time::{Duration, Instant};

use bytes::Bytes;
use hdrhistogram::Histogram;
use http_body_util::{BodyExt, Empty};
use hyper::header::HeaderValue;
use hyper::{Request, StatusCode, Uri};
use hyper_util::client::legacy::Client;
use hyper_util::client::legacy::connect::HttpConnector;
use hyper_util::rt::TokioExecutor;
use tokio::task::LocalSet;

const IN_FLIGHT: usize = 64;
/// As in `benches/measure.h`.
const FIELDS: [(&str, &str); 4] = [
    ("x-real-ip", "192.0.2.123"),
    ("x-real-path", "/channel/index.m3u8"),
    ("x-real-origin", "https://live.example.com"),
    (
        "x-real-ua",
        "Mozilla/5.0 (X11; Linux x86_64) AppleWebKit/537.36 (KHTML, like Gecko) Chrome/126.0.0.0 TV/1.0.0",
    ),
];

struct Shared {
    client: Client<HttpConnector, Empty<Bytes>>,
    uri: Uri,
    end_at: Instant,
    begun: Cell<u64>,
    latencies: RefCell<Histogram<u64>>,
}

fn main() -> Result<(), Box<dyn Error>> {
    let mut args = std::env::args().skip(1);
    let (Some(url), Some(seconds)) = (args.next(), args.next()) else {
        return Err("usage: hyper_util URL SECONDS".into());
    };
    let mut connector = HttpConnector::new();
    connector.set_nodelay(true);
    let began = Instant::now();
    let shared = Rc::new(Shared {
        client: Client::builder(TokioExecutor::new())
            .pool_max_idle_per_host(IN_FLIGHT)
            .http1_title_case_headers(true)
            .build(connector),
        uri: url.parse()?,
        end_at: began + Duration::from_secs_f64(seconds.parse()?),
        begun: Cell::new(0),
        latencies: RefCell::new(Histogram::new(3)?),
    });
    let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build()?;
    let tasks = LocalSet::new();
    for _ in 0..IN_FLIGHT {
        let shared = Rc::clone(&shared);
        tasks.spawn_local(async move {
            while Instant::now() < shared.end_at {
                if let Err(error) = exchange(&shared).await {
                    eprintln!("void: hyper-util: {error}");
                    std::process::exit(1);
                }
            }
        });
    }
    runtime.block_on(tasks);
    let latencies = shared.latencies.borrow();
    let us = |share| latencies.value_at_quantile(share) as f64 / 1000.0;
    println!(
        "checks={} seconds={:.3} p50_us={:.1} p99_us={:.1} p999_us={:.1} worst_us={:.1}",
        shared.begun.get(),
        began.elapsed().as_secs_f64(),
        us(0.5),
        us(0.99),
        us(0.999),
        latencies.max() as f64 / 1000.0
    );
    Ok(())
}

async fn exchange(shared: &Shared) -> Result<(), Box<dyn Error>> {
    let number = shared.begun.get();
    shared.begun.set(number + 1);
    let mut request = Request::new(Empty::new());
    *request.uri_mut() = shared.uri.clone();
    let headers = request.headers_mut();
    headers.insert("x-session-id", HeaderValue::try_from(format!("{number:016}"))?);
    for (name, value) in FIELDS {
        headers.insert(name, HeaderValue::from_static(value));
    }
    let began = Instant::now();
    let mut answer = shared.client.request(request).await?;
    if answer.status() != StatusCode::OK {
        return Err(format!("status {}", answer.status()).into());
    }
    while let Some(frame) = answer.frame().await {
        frame?;
    }
    shared.latencies.borrow_mut().record(began.elapsed().as_nanos() as u64)?;
    Ok(())
}
