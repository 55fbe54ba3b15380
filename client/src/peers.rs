//! The addresses of a cluster and the connection to each.
//!
//! Keeps one warm connection to every known node, so that the news of a new leader arrives by
//! itself, and dials again, with a short back-off that grows, whatever breaks. Notices a dead
//! connection by pings. Never looks into calls. Next: `driver`, which owns this and all else.

use crate::connection::{Connection, dial};
use crate::entropy::Entropy;
use crate::options::Options;
use engine::ids::{ClusterId, NodeId};
use engine::wire::Frame;
use engine::wire::client::{ClientFrame, ClusterView, Welcome};
use std::future::Future;
use std::pin::Pin;
use std::task::{Context, Poll};
use std::time::Duration;
use tokio::time::Instant;

/// First pause before an address is dialled again.
const BACKOFF_MIN: Duration = Duration::from_millis(10);
/// Longest.
const BACKOFF_MAX: Duration = Duration::from_millis(500);
/// A second address of a node that is connected already is tried again after this.
const ALIAS_PAUSE: Duration = Duration::from_secs(10);
/// A node has this long to accept and to greet.
const DIAL_TIMEOUT: Duration = Duration::from_secs(1);
/// A connection on which nothing came for this long is pinged.
const QUIET: Duration = Duration::from_millis(250);
/// A pinged connection on which nothing comes for this long is dead.
const PING_TIMEOUT: Duration = Duration::from_millis(750);

/// An established connection; never reused.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Debug)]
pub(crate) struct LinkId(u64);

/// What happens on the connections.
#[derive(Debug)]
pub(crate) enum PeerEvent {
    /// A node welcomed us.
    Up { welcome: Welcome },
    /// A connection is over; what was sent on it may or may not have arrived.
    Down { link: LinkId },
    /// A frame came.
    Frame { link: LinkId, node: NodeId, frame: Frame },
}

type Dialling = Pin<Box<dyn Future<Output = Result<(Connection, Welcome), String>> + Send>>;

enum State {
    Down { retry_at: Instant },
    Dialling { dialling: Dialling, until: Instant },
    Up(Box<Link>),
}

struct Link {
    id: LinkId,
    connection: Connection,
    heard_at: Instant,
    pinged_at: Option<Instant>,
}

struct Peer {
    address: String,
    /// Given by the user, so never forgotten.
    is_seed: bool,
    /// Who was there last, or who the cluster says is there.
    node: Option<NodeId>,
    state: State,
    backoff: Duration,
    trouble: Option<String>,
}

/// All addresses.
pub(crate) struct Peers {
    list: Vec<Peer>,
    /// The cluster that the user wants, or that answered first.
    cluster: Option<ClusterId>,
    links_opened: u64,
    frames: Vec<Frame>,
}

impl Peers {
    pub(crate) fn new(addresses: &[String], options: &Options, now: Instant) -> Self {
        let mut list: Vec<Peer> = Vec::new();
        for address in addresses {
            if !list.iter().any(|peer| peer.address == *address) {
                list.push(Peer::new(address.clone(), true, None, now));
            }
        }
        Self { list, cluster: options.cluster, links_opened: 0, frames: Vec::new() }
    }

    /// The cluster, once known.
    pub(crate) fn cluster(&self) -> Option<ClusterId> {
        self.cluster
    }

    /// The connection to a node, if it is up.
    pub(crate) fn link_to(&self, node: NodeId) -> Option<LinkId> {
        self.list.iter().find(|peer| peer.node == Some(node) && peer.link().is_some())?.link()
    }

    /// The connected nodes.
    pub(crate) fn connected(&self) -> impl Iterator<Item = NodeId> {
        self.list.iter().filter(|peer| peer.link().is_some()).filter_map(|peer| peer.node)
    }

    /// Queues a frame on a connection; nothing happens if it is down by now, as its `Down` is on
    /// the way.
    pub(crate) fn write(&mut self, link: LinkId, frame: &ClientFrame, tail: &[bytes::Bytes]) {
        let found = self.list.iter_mut().find(|peer| peer.link() == Some(link));
        if let Some(Peer { state: State::Up(link), .. }) = found {
            link.connection.write(frame, tail);
        }
    }

    /// Whether everything queued on a connection was written, or never will be.
    pub(crate) fn is_written(&self, link: LinkId) -> bool {
        self.list.iter().all(|peer| match &peer.state {
            State::Up(up) => up.id != link || up.connection.outbound_bytes() == 0,
            State::Down { .. } | State::Dialling { .. } => true,
        })
    }

    /// What goes wrong where.
    pub(crate) fn troubles(&self) -> impl Iterator<Item = (&str, &str)> {
        self.list.iter().filter_map(|peer| Some((peer.address.as_str(), peer.trouble.as_deref()?)))
    }

    /// Learns the members: dials those that are not covered yet, forgets learned addresses that no
    /// member has.
    pub(crate) fn learn(&mut self, view: &ClusterView, now: Instant) {
        if view.nodes.is_empty() {
            return;
        }
        self.list.retain(|peer| {
            let is_member = || view.nodes.iter().any(|member| member.address == peer.address);
            peer.is_seed || peer.link().is_some() || is_member()
        });
        for member in &view.nodes {
            let is_covered = self.link_to(member.node).is_some()
                || self.list.iter().any(|peer| peer.address == member.address);
            if !is_covered {
                let address = member.address.clone();
                self.list.push(Peer::new(address, false, Some(member.node), now));
            }
        }
    }

    /// Dials, reads and pings; what happens goes to `events`.
    pub(crate) fn poll(
        &mut self,
        cx: &mut Context<'_>,
        now: Instant,
        entropy: &Entropy,
        events: &mut Vec<PeerEvent>,
    ) {
        for at in 0..self.list.len() {
            if matches!(&self.list[at].state, State::Down { retry_at } if *retry_at <= now) {
                let dialling = Box::pin(dial(self.list[at].address.clone(), self.cluster));
                self.list[at].state = State::Dialling { dialling, until: now + DIAL_TIMEOUT };
            }
            self.poll_dialling(at, cx, now, entropy, events);
            self.poll_link(at, cx, now, entropy, events);
        }
    }

    /// Writes what was queued.
    pub(crate) fn poll_write(
        &mut self,
        cx: &mut Context<'_>,
        now: Instant,
        entropy: &Entropy,
        events: &mut Vec<PeerEvent>,
    ) {
        for peer in &mut self.list {
            let State::Up(link) = &mut peer.state else { continue };
            if let Err(trouble) = link.connection.poll_write(cx) {
                events.push(PeerEvent::Down { link: link.id });
                peer.fail(trouble, now, entropy);
            }
        }
    }

    /// When [`poll`](Self::poll) must come at the latest.
    pub(crate) fn next_deadline(&self) -> Option<Instant> {
        self.list.iter().map(Peer::next_deadline).min()
    }

    /// Ends a connection that talks nonsense.
    pub(crate) fn break_off(
        &mut self,
        link: LinkId,
        trouble: String,
        now: Instant,
        entropy: &Entropy,
    ) {
        if let Some(peer) = self.list.iter_mut().find(|peer| peer.link() == Some(link)) {
            peer.fail(trouble, now, entropy);
        }
    }

    fn poll_dialling(
        &mut self,
        at: usize,
        cx: &mut Context<'_>,
        now: Instant,
        entropy: &Entropy,
        events: &mut Vec<PeerEvent>,
    ) {
        let peer = &mut self.list[at];
        let State::Dialling { dialling, until } = &mut peer.state else { return };
        let dialled = match dialling.as_mut().poll(cx) {
            Poll::Ready(dialled) => dialled,
            Poll::Pending if now < *until => return,
            Poll::Pending => Err(format!("no answer within {} ms", DIAL_TIMEOUT.as_millis())),
        };
        let (connection, welcome) = match dialled {
            Ok(dialled) => dialled,
            Err(trouble) => return peer.fail(trouble, now, entropy),
        };
        if *self.cluster.get_or_insert(welcome.cluster) != welcome.cluster {
            // Two first answers from two clusters: the second one loses.
            let trouble = format!("belongs to another cluster, {}", welcome.cluster);
            return peer.fail(trouble, now, entropy);
        }
        peer.node = Some(welcome.node);
        peer.trouble = None;
        peer.backoff = BACKOFF_MIN;
        if self.link_to(welcome.node).is_some() {
            self.list[at].state = State::Down { retry_at: now + ALIAS_PAUSE };
            return;
        }
        self.links_opened += 1;
        let id = LinkId(self.links_opened);
        let link = Link { id, connection, heard_at: now, pinged_at: None };
        self.list[at].state = State::Up(Box::new(link));
        events.push(PeerEvent::Up { welcome });
    }

    fn poll_link(
        &mut self,
        at: usize,
        cx: &mut Context<'_>,
        now: Instant,
        entropy: &Entropy,
        events: &mut Vec<PeerEvent>,
    ) {
        let peer = &mut self.list[at];
        let (State::Up(link), Some(node)) = (&mut peer.state, peer.node) else { return };
        let read = link.connection.poll_frames(cx, &mut self.frames);
        if !self.frames.is_empty() {
            link.heard_at = now;
            link.pinged_at = None;
        }
        let id = link.id;
        events.extend(self.frames.drain(..).map(|frame| PeerEvent::Frame {
            link: id,
            node,
            frame,
        }));
        if let Err(trouble) = read.and_then(|()| link.check_health(now)) {
            peer.fail(trouble, now, entropy);
            events.push(PeerEvent::Down { link: id });
            self.hurry_aliases(node, now);
        }
    }

    /// The connection to a node broke: another address of it may do.
    fn hurry_aliases(&mut self, node: NodeId, now: Instant) {
        for peer in self.list.iter_mut().filter(|peer| peer.node == Some(node)) {
            if let State::Down { retry_at } = &mut peer.state {
                *retry_at = (*retry_at).min(now + BACKOFF_MAX);
            }
        }
    }
}

impl Link {
    fn check_health(&mut self, now: Instant) -> Result<(), String> {
        match self.pinged_at {
            Some(pinged_at) if now >= pinged_at + PING_TIMEOUT => {
                Err(format!("silent for {} ms", (now - self.heard_at).as_millis()))
            }
            None if now >= self.heard_at + QUIET => {
                self.pinged_at = Some(now);
                self.connection.write(&ClientFrame::Ping(self.id.0), &[]);
                Ok(())
            }
            Some(_) | None => Ok(()),
        }
    }
}

impl Peer {
    fn new(address: String, is_seed: bool, node: Option<NodeId>, now: Instant) -> Self {
        let state = State::Down { retry_at: now };
        Self { address, is_seed, node, state, backoff: BACKOFF_MIN, trouble: None }
    }

    fn link(&self) -> Option<LinkId> {
        match &self.state {
            State::Up(link) => Some(link.id),
            State::Down { .. } | State::Dialling { .. } => None,
        }
    }

    fn fail(&mut self, trouble: String, now: Instant, entropy: &Entropy) {
        tracing::debug!(address = self.address, trouble, "connection failed");
        self.trouble = Some(trouble);
        self.state = State::Down { retry_at: now + entropy.jittered(self.backoff) };
        self.backoff = (self.backoff * 2).min(BACKOFF_MAX);
    }

    fn next_deadline(&self) -> Instant {
        match &self.state {
            State::Down { retry_at } => *retry_at,
            State::Dialling { until, .. } => *until,
            State::Up(link) => match link.pinged_at {
                Some(pinged_at) => pinged_at + PING_TIMEOUT,
                None => link.heard_at + QUIET,
            },
        }
    }
}
