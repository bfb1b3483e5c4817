//! Open-loop load: calls leave at the times of a Poisson process whatever the server does, and latency counts from the intended time.
//!
//!     slateloop-load HOST:PORT /package.Service/Method BODY_FILE RATE SECONDS CONNECTIONS
//!
//! The body is one length-prefixed message. Prints JSON: latencies in milliseconds, calls, and those that were not answered with status 0.

use std::cell::RefCell;
use std::rc::Rc;
use std::time::{Duration, Instant};

use bytes::Bytes;
use h2::client::SendRequest;
use http::Request;
use tokio::net::TcpStream;
use tokio::task::LocalSet;

const WARMING: Duration = Duration::from_secs(1);

#[derive(Default)]
struct Seen {
    latencies_ms: Vec<f64>,
    failed: usize,
}

struct Call {
    uri: String,
    body: Bytes,
}

/// Xorshift64*: the same arrivals in every run.
struct Random(u64);

impl Random {
    fn exponential(&mut self, mean_s: f64) -> f64 {
        self.0 ^= self.0 >> 12;
        self.0 ^= self.0 << 25;
        self.0 ^= self.0 >> 27;
        let uniform = (self.0.wrapping_mul(0x2545_F491_4F6C_DD1D) >> 11) as f64 / (1u64 << 53) as f64;
        -mean_s * (1.0 - uniform).ln()
    }
}

fn main() -> Result<(), Box<dyn std::error::Error>> {
    let given: Vec<String> = std::env::args().skip(1).collect();
    let [address, method, body, rate, seconds, connections] = &given[..] else {
        return Err("usage: slateloop-load HOST:PORT /package.Service/Method BODY_FILE RATE SECONDS CONNECTIONS".into());
    };
    let call = Rc::new(Call { uri: format!("http://{address}{method}"), body: std::fs::read(body)?.into() });
    let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build()?;
    let seen = LocalSet::new().block_on(&runtime, run(address, call, rate.parse()?, seconds.parse()?, connections.parse()?))?;
    print(seen);
    Ok(())
}

async fn run(address: &str, call: Rc<Call>, rate: f64, seconds: f64, connections: usize) -> Result<Seen, Box<dyn std::error::Error>> {
    let mut senders = Vec::new();
    for _ in 0..connections {
        let stream = TcpStream::connect(address).await?;
        stream.set_nodelay(true)?;
        let (sender, connection) = h2::client::handshake(stream).await?;
        tokio::task::spawn_local(async { drop(connection.await) });
        senders.push(sender);
    }
    let (seen, mut random) = (Rc::new(RefCell::new(Seen::default())), Random(0x9E37_79B9_7F4A_7C15));
    let begun = Instant::now();
    let counted = begun + WARMING;
    let (mut due, mut running) = (begun, Vec::new());
    while due < counted + Duration::from_secs_f64(seconds) {
        due += Duration::from_secs_f64(random.exponential(1.0 / rate));
        // The timer's grain is a millisecond; the last of it is spent looking, on a core that is ours.
        if let Some(left) = due.checked_duration_since(Instant::now() + Duration::from_millis(2)) {
            tokio::time::sleep(left).await;
        }
        while Instant::now() < due {
            tokio::task::yield_now().await;
        }
        let sender = senders[running.len() % connections].clone();
        running.push(tokio::task::spawn_local(timed(sender, call.clone(), due, due >= counted, seen.clone())));
    }
    for task in running {
        task.await?;
    }
    Ok(seen.take())
}

async fn timed(sender: SendRequest<Bytes>, call: Rc<Call>, due: Instant, counts: bool, seen: Rc<RefCell<Seen>>) {
    let sound = answered(sender, &call).await.unwrap_or(false);
    let mut seen = seen.borrow_mut();
    if !sound {
        seen.failed += 1;
    } else if counts {
        seen.latencies_ms.push(due.elapsed().as_secs_f64() * 1e3);
    }
}

/// Was the call answered with status 0?
async fn answered(sender: SendRequest<Bytes>, call: &Call) -> Result<bool, Box<dyn std::error::Error>> {
    let request = Request::post(&call.uri).header("content-type", "application/grpc").header("te", "trailers").body(())?;
    let (response, mut stream) = sender.ready().await?.send_request(request, false)?;
    stream.send_data(call.body.clone(), true)?;
    let mut body = response.await?.into_body();
    while let Some(data) = body.data().await {
        body.flow_control().release_capacity(data?.len())?;
    }
    Ok(body.trailers().await?.is_some_and(|trailers| trailers.get("grpc-status").is_some_and(|status| status == "0")))
}

fn print(mut seen: Seen) {
    seen.latencies_ms.sort_by(f64::total_cmp);
    let at = |share: f64| seen.latencies_ms.get((share * (seen.latencies_ms.len() as f64 - 1.0)) as usize).copied().unwrap_or(f64::NAN);
    let (p50, p99, p999) = (at(0.5), at(0.99), at(0.999));
    println!(
        "{{\"p50_ms\": {p50:.4}, \"p99_ms\": {p99:.4}, \"p999_ms\": {p999:.4}, \"calls\": {}, \"failed\": {}}}",
        seen.latencies_ms.len(),
        seen.failed
    );
}
