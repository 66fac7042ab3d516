//! A TCP proxy between one instance and Redis that can imitate a bad network. Each instance has its own, so that one
//! instance can lose Redis while the others keep it.
//!
//! It does to a connection only what can happen to TCP: bytes are late, or the connection ends; none is lost or changed
//! in the middle. A *held* direction is a blackhole: what was sent into it arrives when it is opened again (TCP
//! retransmits), even if its sender has given up and closed. The one exception is a *stale* subscription: there,
//! published messages vanish while everything else on the connection works, as after a failover to a server that does
//! not know the subscription.

use super::clock::{self, At};
use super::resp;
use std::io::{Read, Write};
use std::net::{Shutdown, SocketAddr, TcpListener, TcpStream};
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering::SeqCst};
use std::sync::{Arc, Condvar, Mutex};
use std::thread;
use std::time::Duration;

/// A set of an instance's connections. How many there are, and for what, is up to the instance; the proxy only sees
/// whether one has subscribed.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Which {
    All,
    /// Those with a subscription, whatever else they carry.
    Pubsub,
    /// Those without one.
    Other,
}

impl Which {
    fn fits(self, link: &Link) -> bool {
        match self {
            Which::All => true,
            Which::Pubsub => link.subscribed.load(SeqCst),
            Which::Other => !link.subscribed.load(SeqCst),
        }
    }
}

/// A listening proxy. It lives as long as the process: when tests end, their threads do too.
pub struct Proxy {
    pub addr: SocketAddr,
    shared: Arc<Shared>,
}

struct Shared {
    /// The server to which new connections are made.
    redis: Mutex<SocketAddr>,
    rules: Mutex<Rules>,
    /// Notified when `rules` or a link's state changes; held pumps wait for it.
    bell: Condvar,
    links: Mutex<Vec<Arc<Link>>>,
}

#[derive(Clone, Copy, Default)]
struct Rules {
    hold_up: Option<Which>,
    hold_down: Option<Which>,
    delay: Duration,
}

/// One connection of the instance and its counterpart to Redis. Owned by two pumps, and by the list while it lives.
struct Link {
    instance: TcpStream,
    redis: TcpStream,
    /// Whether it has subscribed to something.
    subscribed: AtomicBool,
    /// When it was made stale; 0 if it was not.
    stale_since: AtomicU64,
    /// Whether a fault ended it: then the pumps must not pass on an orderly end.
    cut: AtomicBool,
    pumps: AtomicU64,
}

#[derive(Clone, Copy, PartialEq, Eq)]
enum Way {
    Up,
    Down,
}

impl Proxy {
    pub fn start(redis: SocketAddr) -> Proxy {
        let listener = TcpListener::bind("127.0.0.1:0").expect("a free port");
        let addr = listener.local_addr().expect("it is bound");
        let shared = Arc::new(Shared {
            redis: Mutex::new(redis),
            rules: Mutex::default(),
            bell: Condvar::new(),
            links: Mutex::default(),
        });
        let accepting = Arc::clone(&shared);
        thread::spawn(move || {
            for instance in listener.incoming().flatten() {
                accepting.join_up(instance);
            }
        });
        Proxy { addr, shared }
    }

    /// Directs new connections to another server; open ones stay.
    pub fn lead_to(&self, redis: SocketAddr) {
        *self.shared.redis.lock().expect("nobody panics holding it") = redis;
    }

    /// Blackholes the data from the instance (`up`) and to it (`down`) on these connections.
    pub fn hold(&self, up: Option<Which>, down: Option<Which>) {
        self.change(|rules| (rules.hold_up, rules.hold_down) = (up, down));
    }

    /// Ends the blackholes.
    pub fn release(&self) {
        self.hold(None, None);
    }

    /// Delays all data by this time, in both directions.
    pub fn delay(&self, delay: Duration) {
        self.change(|rules| rules.delay = delay);
    }

    /// Ends connections as a crashed peer or a strict firewall does: with a reset (RST), at both ends.
    pub fn cut(&self, which: Which) -> usize {
        let mut cut = 0;
        for link in self.links(which) {
            link.cut.store(true, SeqCst);
            for end in [&link.instance, &link.redis] {
                // Without linger, closing the socket after both pumps have ended sends a reset.
                let _ = socket2::SockRef::from(end).set_linger(Some(Duration::ZERO));
                let _ = end.shutdown(Shutdown::Read); // wakes the pump, sends the peer nothing
            }
            cut += 1;
        }
        self.shared.bell.notify_all();
        cut
    }

    /// Makes the current subscriptions stale for good; later ones are not.
    pub fn make_stale(&self) -> usize {
        let links = self.links(Which::Pubsub);
        for link in &links {
            let _ = link.stale_since.compare_exchange(0, clock::now().max(1), SeqCst, SeqCst);
        }
        links.len()
    }

    /// Since when the oldest open stale subscription has been stale.
    pub fn stale_since(&self) -> Option<At> {
        let links = self.links(Which::Pubsub);
        let since = links.iter().map(|link| link.stale_since.load(SeqCst));
        since.filter(|&at| at > 0).min()
    }

    fn links(&self, which: Which) -> Vec<Arc<Link>> {
        let links = self.shared.links.lock().expect("nobody panics holding it");
        links.iter().filter(|link| which.fits(link)).cloned().collect()
    }

    fn change(&self, change: impl FnOnce(&mut Rules)) {
        change(&mut self.shared.rules.lock().expect("nobody panics holding it"));
        self.shared.bell.notify_all();
    }
}

impl Shared {
    /// Connects a new connection to Redis. If Redis is away, the instance's connection is dropped at once.
    fn join_up(self: &Arc<Shared>, instance: TcpStream) {
        let redis = *self.redis.lock().expect("nobody panics holding it");
        let Ok(redis) = TcpStream::connect_timeout(&redis, Duration::from_secs(1)) else {
            return;
        };
        let _ = (instance.set_nodelay(true), redis.set_nodelay(true));
        let link = Arc::new(Link {
            instance,
            redis,
            subscribed: AtomicBool::new(false),
            stale_since: AtomicU64::new(0),
            cut: AtomicBool::new(false),
            pumps: AtomicU64::new(2),
        });
        self.links.lock().expect("nobody panics holding it").push(Arc::clone(&link));
        for way in [Way::Up, Way::Down] {
            let (shared, link) = (Arc::clone(self), Arc::clone(&link));
            thread::spawn(move || {
                shared.pump(&link, way);
                if link.pumps.fetch_sub(1, SeqCst) == 1 {
                    let mut links = shared.links.lock().expect("nobody panics holding it");
                    links.retain(|other| !Arc::ptr_eq(other, &link));
                }
            });
        }
    }

    /// Copies bytes in one direction until the connection ends, then passes the end on.
    fn pump(&self, link: &Link, way: Way) {
        let (mut from, mut to) = match way {
            Way::Up => (&link.instance, &link.redis),
            Way::Down => (&link.redis, &link.instance),
        };
        let mut buffer = [0; 16 * 1024];
        let mut unfinished = Vec::new(); // the beginning of a reply on a subscription
        loop {
            let read = from.read(&mut buffer);
            self.wait_while_held(link, way);
            let bytes = match read {
                Ok(n) if n > 0 && !link.cut.load(SeqCst) => &buffer[..n],
                _ => break,
            };
            if way == Way::Up && says_subscribe(bytes) {
                link.subscribed.store(true, SeqCst);
            }
            let sent = if way == Way::Down && link.subscribed.load(SeqCst) {
                unfinished.extend_from_slice(bytes);
                let stale = link.stale_since.load(SeqCst) > 0;
                to.write_all(&take_replies(&mut unfinished, stale))
            } else {
                to.write_all(bytes)
            };
            if sent.is_err() {
                break;
            }
        }
        if !link.cut.load(SeqCst) {
            let _ = to.shutdown(Shutdown::Write);
            if way == Way::Down {
                // Redis is gone: nothing that the instance sends from now on will be answered.
                let _ = from.shutdown(Shutdown::Both);
            }
        }
    }

    fn wait_while_held(&self, link: &Link, way: Way) {
        let rules = self.rules.lock().expect("nobody panics holding it");
        let held = |rules: &mut Rules| {
            let hold = if way == Way::Up { rules.hold_up } else { rules.hold_down };
            hold.is_some_and(|which| which.fits(link)) && !link.cut.load(SeqCst)
        };
        let rules = self.bell.wait_while(rules, held).expect("nobody panics holding it");
        let delay = rules.delay;
        drop(rules);
        if !delay.is_zero() {
            thread::sleep(delay);
        }
    }
}

/// Takes all whole replies out of `stream`, without the published messages if the subscription is stale.
fn take_replies(stream: &mut Vec<u8>, stale: bool) -> Vec<u8> {
    let mut whole = Vec::new();
    let mut done = 0;
    while done < stream.len() {
        let Some(length) = resp::reply_len(&stream[done..]) else {
            break;
        };
        let reply = &stream[done..done + length];
        if !(stale && resp::is_published(reply)) {
            whole.extend_from_slice(reply);
        }
        done += length;
    }
    stream.drain(..done);
    whole
}

fn says_subscribe(bytes: &[u8]) -> bool {
    let word = b"SUBSCRIBE\r\n"; // also matches SSUBSCRIBE and PSUBSCRIBE
    bytes.windows(word.len()).any(|w| w.eq_ignore_ascii_case(word))
}
