//! Open-loop load: calls leave at the times of a Poisson process whatever the server does, and latency counts from the intended time.
//!
//!     slateloop-load HOST:PORT /package.Service/Method BODY_FILE RATE SECONDS CONNECTIONS
//!
//! The body is one length-prefixed message; where it holds sixteen "@", each call has a number of its own in their place. Prints JSON:
//! latencies in milliseconds, calls, and those that were not answered with status 0.

use std::cell::RefCell;
use std::rc::Rc;
use std::time::{Duration, Instant};

use bytes::Bytes;
use h2::client::SendRequest;
use http::Request;
use tokio::net::TcpStream;
use tokio::task::{JoinSet, LocalSet};

const WARMING: Duration = Duration::from_secs(1);
const NUMBER: &[u8] = b"@@@@@@@@@@@@@@@@";

#[derive(Default)]
struct Seen {
    latencies_ms: Vec<f64>,
    failed: usize,
}

struct Call {
    uri: String,
    body: Vec<u8>,
    /// Where the number of the call is to stand.
    number_at: Option<usize>,
}

impl Call {
    fn new(uri: String, body: Vec<u8>) -> Self {
        let number_at = body.windows(NUMBER.len()).position(|found| found == NUMBER);
        Call { uri, body, number_at }
    }

    fn body(&self, number: u64) -> Bytes {
        let mut body = self.body.clone();
        if let Some(at) = self.number_at {
            body[at..at + NUMBER.len()].copy_from_slice(format!("{number:016x}").as_bytes());
        }
        body.into()
    }
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
    let call = Rc::new(Call::new(format!("http://{address}{method}"), std::fs::read(body)?));
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
    // Numbers of another run are others.
    let mut number = std::time::SystemTime::now().duration_since(std::time::UNIX_EPOCH)?.as_nanos() as u64;
    let (mut due, mut running) = (begun, JoinSet::new());
    while due < counted + Duration::from_secs_f64(seconds) {
        due += Duration::from_secs_f64(random.exponential(1.0 / rate));
        // The timer's grain is a millisecond; the last of it is spent looking, on a core that is ours.
        if let Some(left) = due.checked_duration_since(Instant::now() + Duration::from_millis(2)) {
            tokio::time::sleep(left).await;
        }
        while Instant::now() < due {
            tokio::task::yield_now().await;
        }
        number += 1;
        let (sender, body) = (senders[number as usize % connections].clone(), call.body(number));
        running.spawn_local(timed(sender, call.clone(), body, due, due >= counted, seen.clone()));
        while running.try_join_next().transpose()?.is_some() {}
    }
    while running.join_next().await.transpose()?.is_some() {}
    Ok(seen.take())
}

async fn timed(sender: SendRequest<Bytes>, call: Rc<Call>, body: Bytes, due: Instant, counts: bool, seen: Rc<RefCell<Seen>>) {
    let sound = answered(sender, &call, body).await.unwrap_or(false);
    let mut seen = seen.borrow_mut();
    if !sound {
        seen.failed += 1;
    } else if counts {
        seen.latencies_ms.push(due.elapsed().as_secs_f64() * 1e3);
    }
}

/// Was the call answered with status 0?
async fn answered(sender: SendRequest<Bytes>, call: &Call, body: Bytes) -> Result<bool, Box<dyn std::error::Error>> {
    let request = Request::post(&call.uri).header("content-type", "application/grpc").header("te", "trailers").body(())?;
    let (response, mut stream) = sender.ready().await?.send_request(request, false)?;
    stream.send_data(body, true)?;
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
