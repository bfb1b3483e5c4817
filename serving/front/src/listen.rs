//! The I/O thread: takes connections, brings replies to them, and closes them.

use std::io;
use std::net::{SocketAddr, TcpListener as StdListener, ToSocketAddrs};
use std::sync::Arc;
use std::time::{Duration, Instant};

use socket2::{Domain, Protocol, SockRef, Socket, TcpKeepalive, Type};
use tokio::net::{TcpListener, TcpStream};
use tokio::sync::{mpsc, watch};
use tokio::task::JoinSet;
use tokio::time::{sleep, timeout};
use tokio_rustls::TlsAcceptor;

use crate::connection::{serve, HANDSHAKE};
use crate::reply::Answered;
use crate::shared::Shared;
use crate::tls::Tls;

const BACKLOG: i32 = 1024;
// A peer that is gone without a word is noticed after about twice this.
const KEEPALIVE: Duration = Duration::from_secs(60);
// Where no descriptor is left: until others have closed.
const PAUSE: Duration = Duration::from_millis(20);

/// A socket that listens, and how its connections are encrypted.
pub struct Bound {
    pub socket: StdListener,
    pub tls: Arc<Tls>,
}

/// Listens at an address; `shared`: with others that share the port.
pub fn bind(address: &str, shared: bool) -> io::Result<StdListener> {
    let mut failure = io::Error::new(io::ErrorKind::NotFound, "no such host");
    for found in address.to_socket_addrs()? {
        match listen_at(found, shared) {
            Ok(socket) => return Ok(socket),
            Err(error) => failure = error,
        }
    }
    Err(failure)
}

fn listen_at(address: SocketAddr, shared: bool) -> io::Result<StdListener> {
    let socket = Socket::new(Domain::for_address(address), Type::STREAM, Some(Protocol::TCP))?;
    socket.set_reuse_address(true)?;
    socket.set_reuse_port(shared)?;
    socket.bind(&address.into())?;
    socket.listen(BACKLOG)?;
    socket.set_nonblocking(true)?;
    Ok(socket.into())
}

/// Everything that the I/O thread does, until `stop` gives the grace for running calls.
pub async fn serve_all(
    bound: Bound,
    shared: Arc<Shared>,
    outbox: mpsc::UnboundedReceiver<Answered>,
    mut stop: watch::Receiver<Option<Duration>>,
) -> io::Result<()> {
    let listener = TcpListener::from_std(bound.socket)?;
    let (draining, drain) = watch::channel(false);
    tokio::spawn(send_replies(outbox, shared.clone()));
    tokio::spawn(wake_python(shared.clone()));
    let mut connections = JoinSet::new();
    loop {
        tokio::select! {
            accepted = listener.accept() => match accepted {
                Ok((stream, _)) => drop(connections.spawn(connect(stream, bound.tls.now(), shared.clone(), drain.clone()))),
                Err(_) => sleep(PAUSE).await,
            },
            Some(_) = connections.join_next() => {}
            _ = stop.changed() => break,
        }
    }
    drop(listener);
    let grace = stop.borrow().unwrap_or_default();
    let _ = draining.send(true);
    let _ = timeout(grace, async { while connections.join_next().await.is_some() {} }).await;
    Ok(())
}

async fn connect(stream: TcpStream, tls: Option<TlsAcceptor>, shared: Arc<Shared>, drain: watch::Receiver<bool>) {
    let _ = stream.set_nodelay(true);
    let _ = SockRef::from(&stream).set_tcp_keepalive(&TcpKeepalive::new().with_time(KEEPALIVE).with_interval(KEEPALIVE / 6));
    match tls {
        None => serve(stream, shared, drain).await,
        Some(acceptor) => {
            if let Ok(Ok(encrypted)) = timeout(HANDSHAKE, acceptor.accept(stream)).await {
                serve(encrypted, shared, drain).await;
            }
        }
    }
}

async fn send_replies(mut outbox: mpsc::UnboundedReceiver<Answered>, shared: Arc<Shared>) {
    while let Some(batch) = outbox.recv().await {
        for (reply, outcome) in batch.replies {
            reply.send(outcome);
        }
        shared.stages.send.record(Instant::now().saturating_duration_since(batch.at));
    }
}

/// Hands calls to the Python thread once everything is read that is here, also where it could go on with what waits already: those who were
/// answered just now are back by then, and one batch costs little more than each of the two that it would have been.
async fn wake_python(shared: Arc<Shared>) {
    loop {
        shared.arrived.notified().await;
        tokio::task::yield_now().await;
        shared.inbox.wake();
    }
}
