//! The background task of a client: one future that owns the connections, the session, what is
//! asked outside it and the deadlines.
//!
//! Each turn takes what has come (frames, calls, time), works it off, and writes what follows, so a
//! batch of any size costs one wake-up, one read and one write, and nothing is shared under a lock.
//! What waits while earlier blocks are under way forms the next block; there is no linger timer.
//! It stops when every handle is gone and every call is answered.
//! Next: `session` for the window, `asks` for queries and whatever else is outside the session, `peers` for the connections.

mod asks;

use crate::call::{Ask, BLOCK_WEIGHT_MAX, BODIES_WEIGHT, Caller, CommandCall, Payload, Route};
use crate::entropy::Entropy;
use crate::error::{Rejected, Unknown};
use crate::leadership::Leadership;
use crate::options::{Cluster, Node, Options};
use crate::peers::{LinkId, PeerEvent, Peers};
use crate::session::{Ended, Fate, Progress, Window};
use asks::Asks;
use bytes::Bytes;
use engine::api::{Rejection, Response};
use engine::block::{BlockBuilder, LENGTH_BYTES};
use engine::hlc::Clock;
use engine::ids::{LogIndex, NodeId, SessionId};
use engine::limits;
use engine::queue::{Command, Invalid, Reply};
use engine::time::{Micros, Now};
use engine::wire::client::{
    Call, ClientFrame, ClusterView, ServerFrame, join_response, read_server_frame,
};
use std::collections::VecDeque;
use std::future::Future;
use std::pin::Pin;
use std::sync::Arc;
use std::task::{Context, Poll};
use std::time::Duration;
use tokio::sync::{mpsc, watch};
use tokio::time::{Instant, Sleep};

/// A block takes no further command once it has this many bytes.
const BLOCK_BYTES_TARGET: usize = 256 * 1024;
/// Unanswered blocks beyond which commands wait and batch.
const BLOCKS_IN_FLIGHT_MAX: usize = 4;
/// Pause after a node said that it does not lead, so that two that point at each other are not asked
/// in a circle without rest.
const REFUSED_PAUSE: Duration = Duration::from_millis(5);
/// Pause after a leader said that it is full.
const FULL_PAUSE: Duration = Duration::from_millis(20);
/// With no leader known for this long, any node is asked.
const LEADERLESS: Duration = Duration::from_millis(60);
/// How long the goodbye to a session may take.
const CLOSE_TIMEOUT: Duration = Duration::from_millis(200);

const _: () = assert!(BLOCK_BYTES_TARGET <= limits::BLOCK_BYTES_MAX);

/// What handles can see.
#[derive(Clone, PartialEq, Eq, Debug, Default)]
pub(crate) struct Published {
    pub(crate) cluster: Cluster,
    /// Each address that fails, and how.
    pub(crate) troubles: Vec<(String, String)>,
}

/// The handles' ends of the driver's channels.
#[derive(Clone, Debug)]
pub(crate) struct Ports {
    pub(crate) commands: mpsc::Sender<CommandCall>,
    pub(crate) asks: mpsc::Sender<Ask>,
    pub(crate) published: watch::Receiver<Published>,
}

enum Session {
    /// Not open; the number of the call that opens it, while one is under way.
    Closed {
        opening: Option<u64>,
    },
    Open(Window<Caller>),
    /// Saying goodbye, at the latest until then.
    Closing {
        until: Instant,
    },
}

/// The task.
pub(crate) struct Driver {
    options: Options,
    entropy: Arc<Entropy>,
    commands: mpsc::Receiver<CommandCall>,
    asks_intake: mpsc::Receiver<Ask>,
    published: watch::Sender<Published>,
    peers: Peers,
    view: ClusterView,
    leadership: Leadership,
    /// The connection that the session's blocks and the leader's asks went to last.
    target: Option<LinkId>,
    /// Commands without a sequence yet.
    waiting: VecDeque<CommandCall>,
    session: Session,
    asks: Asks,
    clock: Clock,
    /// The start of what the clock takes for monotonic time.
    started_at: Instant,
    requests: u64,
    /// Nothing is sent before then.
    paused_until: Option<Instant>,
    /// Why an answer came without the bodies that belong to it, the last time that one did.
    body_trouble: Option<String>,
    /// When to ask any node, while no leader is known.
    guess_at: Option<Instant>,
    guesses: usize,
    /// Counts what any node may answer.
    turns: usize,
    /// No caller's deadline is earlier.
    next_overdue: Option<Instant>,
    sleep: Option<Pin<Box<Sleep>>>,
    events: Vec<PeerEvent>,
    intake: Vec<CommandCall>,
    is_news: bool,
    /// A node has answered since the start.
    has_answer: bool,
    handles_gone: bool,
}

impl Driver {
    pub(crate) fn new(
        addresses: &[String],
        options: Options,
        entropy: Arc<Entropy>,
    ) -> (Self, Ports) {
        let (commands_in, commands) = mpsc::channel(options.window_clamped());
        let (asks_in, asks_intake) = mpsc::channel(options.window_clamped());
        let (published, published_out) = watch::channel(Published::default());
        let ports = Ports { commands: commands_in, asks: asks_in, published: published_out };
        let driver = Self {
            peers: Peers::new(addresses, &options, Instant::now()),
            options,
            entropy,
            commands,
            asks_intake,
            published,
            view: ClusterView::default(),
            leadership: Leadership::default(),
            target: None,
            waiting: VecDeque::new(),
            session: Session::Closed { opening: None },
            asks: Asks::default(),
            clock: Clock::default(),
            started_at: Instant::now(),
            requests: 0,
            paused_until: None,
            body_trouble: None,
            guess_at: None,
            guesses: 0,
            turns: 0,
            next_overdue: None,
            sleep: None,
            events: Vec::new(),
            intake: Vec::new(),
            is_news: false,
            has_answer: false,
            handles_gone: false,
        };
        (driver, ports)
    }

    fn turn(&mut self, cx: &mut Context<'_>, now: Instant) {
        let mut events = std::mem::take(&mut self.events);
        self.peers.poll(cx, now, &self.entropy, &mut events);
        for event in events.drain(..) {
            self.on_event(now, event);
        }
        self.take_calls(cx);
        self.end_overdue(now);
        self.follow_leader(now);
        if self.paused_until.is_none_or(|until| until <= now) {
            self.paused_until = None;
            self.send_session(now);
        }
        self.send_asks(now);
        self.peers.poll_write(cx, now, &self.entropy, &mut events);
        if !events.is_empty() {
            cx.waker().wake_by_ref();
        }
        self.events = events;
        self.publish();
    }

    fn on_event(&mut self, now: Instant, event: PeerEvent) {
        match event {
            PeerEvent::Up { welcome } => {
                self.has_answer = true;
                self.on_view(now, welcome.view);
            }
            PeerEvent::Down { link } => self.on_down(now, link),
            PeerEvent::Frame { link, node, frame } => {
                let taken = read_server_frame(&frame).map_err(|error| error.to_string());
                let taken =
                    taken.and_then(|(frame, bodies)| self.on_frame(now, link, node, frame, bodies));
                if let Err(trouble) = taken {
                    self.peers.break_off(link, trouble, now, &self.entropy);
                    self.on_down(now, link);
                }
            }
        }
    }

    fn on_down(&mut self, now: Instant, link: LinkId) {
        self.is_news = true;
        self.asks.on_lost(link);
        if self.target == Some(link) {
            self.forget_target();
        }
        // Another address of the same node may have to take over.
        let view = std::mem::take(&mut self.view);
        self.peers.learn(&view, now);
        self.view = view;
    }

    fn on_view(&mut self, now: Instant, view: ClusterView) {
        self.is_news = true;
        let before = self.leadership.leader();
        self.leadership.on_view(&view);
        if self.leadership.leader() != before {
            let (leader, term) = (self.leadership.leader(), self.leadership.term());
            tracing::debug!(?leader, %term, "leader changed");
        }
        let age = |view: &ClusterView| (view.term, view.membership_index);
        // Nodes that lag or were removed push their views as well.
        if !view.nodes.is_empty() && age(&view) >= age(&self.view) {
            self.peers.learn(&view, now);
            self.view = view;
        }
    }

    fn on_frame(
        &mut self,
        now: Instant,
        link: LinkId,
        node: NodeId,
        frame: ServerFrame,
        bodies: Vec<Bytes>,
    ) -> Result<(), String> {
        match frame {
            ServerFrame::View(view) => self.on_view(now, view),
            ServerFrame::Pong(_) => {}
            ServerFrame::Status { request, status } => {
                let leader = status.leader;
                if !self.asks.on_status(now, request, *status) {
                    self.leadership.on_refusal(node, leader);
                }
            }
            ServerFrame::Response { request, answer, .. } => {
                let response = join_response(answer, bodies);
                if let Response::Rejected(rejection) = &response {
                    self.on_rejection(now, node, rejection);
                }
                if let Response::Unknown { leader } = &response {
                    self.leadership.on_refusal(node, *leader);
                }
                if let Response::BodyMissing { entry, is_lost } = response {
                    self.on_body_missing(now, node, entry, is_lost);
                }
                if self.asks.is_sent(request) {
                    self.asks.on_response(now, node, request, response);
                } else if self.target == Some(link) {
                    self.on_session_response(request, response)?;
                }
            }
        }
        Ok(())
    }

    /// What a refusal tells about where and when to try again.
    fn on_rejection(&mut self, now: Instant, node: NodeId, rejection: &Rejection) {
        let pause = match rejection {
            Rejection::NotLeader { leader } => {
                self.leadership.on_refusal(node, *leader);
                REFUSED_PAUSE
            }
            Rejection::ShuttingDown => {
                self.leadership.on_refusal(node, None);
                REFUSED_PAUSE
            }
            Rejection::Transferring { to } => {
                self.leadership.on_refusal(node, Some(*to));
                REFUSED_PAUSE
            }
            Rejection::Full { .. } => FULL_PAUSE,
            Rejection::Malformed { .. }
            | Rejection::NoSpace(_)
            | Rejection::Change(_)
            | Rejection::Transfer(_) => return,
        };
        self.paused_until = Some(now + self.entropy.jittered(pause));
    }

    /// The call took effect, and a body that goes with its answer cannot be read: it is asked for again,
    /// until the call's time is over.
    fn on_body_missing(&mut self, now: Instant, node: NodeId, entry: LogIndex, is_lost: bool) {
        self.body_trouble = Some(if is_lost {
            format!(
                "entry {entry} of the log, which holds a message of the answer, is on no node any more"
            )
        } else {
            format!(
                "node {node} is still getting entry {entry} of the log, which holds a message of the answer"
            )
        });
        self.paused_until = Some(now + self.entropy.jittered(REFUSED_PAUSE));
    }

    fn on_session_response(
        &mut self,
        request: u64,
        response: Response<Reply>,
    ) -> Result<(), String> {
        if matches!(&self.session, Session::Closed { opening: Some(own) } if *own == request) {
            return self.on_opened(response);
        }
        let Session::Open(window) = &mut self.session else { return Ok(()) };
        let progress = match response {
            Response::Applied { results, bodies, .. } => {
                self.body_trouble = None;
                window.on_applied(request, results, bodies, answer_command)
            }
            Response::Invalid { command, reply } => {
                window.on_invalid(request, command as usize, reply)
            }
            Response::Rejected(Rejection::Malformed { reason }) => {
                return self.on_malformed(request, &reason);
            }
            Response::Rejected(Rejection::NoSpace(shortage)) => {
                window.on_no_space(request, &shortage, Command::is_send)
            }
            Response::Rejected(_) | Response::Unknown { .. } | Response::BodyMissing { .. } => {
                window.on_undone(request);
                Progress::Rewound
            }
            Response::SessionOpened(_)
            | Response::SessionClosed
            | Response::Answer { .. }
            | Response::Stale { .. }
            | Response::Changed { .. }
            | Response::Transferred { .. }
            | Response::Backup { .. }
            // Blocks are built so that their answers fit.
            | Response::TooLarge { .. }
            | Response::Ready
            | Response::TimedOut => Progress::Contradiction,
        };
        match progress {
            Progress::Answered | Progress::Rewound | Progress::Stale => Ok(()),
            Progress::Expired => {
                self.expire_session(Some(request));
                Ok(())
            }
            Progress::Contradiction => {
                self.expire_session(None);
                Err(format!("answer to request {request} contradicts the protocol"))
            }
        }
    }

    fn on_opened(&mut self, response: Response<Reply>) -> Result<(), String> {
        self.session = Session::Closed { opening: None };
        match response {
            Response::SessionOpened(session) if session != SessionId::ZERO => {
                // Deletes a message that never was, from a queue that need not be.
                let ids = vec![self.entropy.message_id()];
                let mut placeholder = Vec::new();
                Command::Delete { queue: "-".to_owned(), ids }.encode_into(&mut placeholder);
                self.session = Session::Open(Window::new(session, placeholder));
                Ok(())
            }
            Response::Rejected(_) | Response::Unknown { .. } => Ok(()),
            other => Err(format!("a request to open a session was answered with {other:?}")),
        }
    }

    /// A node cannot read a block: nothing in it had an effect by this transmission. Which of its
    /// commands is at fault is not known, so its whole session goes.
    fn on_malformed(&mut self, request: u64, reason: &str) -> Result<(), String> {
        let Session::Open(window) = self.take_session() else { return Ok(()) };
        window.expire(Some(request), |caller, fate| match fate {
            Fate::NeverApplied(_) => {
                caller.end(Err(Rejected::Malformed { reason: reason.to_owned() }.into()));
            }
            Fate::Refused(ended) => answer_command(caller, ended),
            Fate::Unknown => caller.end(Err(Unknown::SessionExpired.into())),
        });
        Ok(())
    }

    /// Ends the session; what was certainly not applied goes into the next one.
    fn expire_session(&mut self, request: Option<u64>) {
        let Session::Open(window) = self.take_session() else { return };
        tracing::debug!(session = %window.session(), "session expired");
        let mut again = Vec::new();
        window.expire(request, |caller, fate| match fate {
            Fate::NeverApplied(command) => again.push(CommandCall {
                bytes_max: LENGTH_BYTES + command.len(),
                // Which command it is has been forgotten.
                weight: BODIES_WEIGHT,
                payload: Payload::Encoded(command),
                caller,
            }),
            Fate::Refused(ended) => answer_command(caller, ended),
            Fate::Unknown => caller.end(Err(Unknown::SessionExpired.into())),
        });
        for call in again.into_iter().rev() {
            self.waiting.push_front(call);
        }
    }

    fn take_session(&mut self) -> Session {
        std::mem::replace(&mut self.session, Session::Closed { opening: None })
    }

    fn take_calls(&mut self, cx: &mut Context<'_>) {
        let mut commands_gone = false;
        while !commands_gone && self.waiting.len() < self.options.window_clamped() {
            let room = self.options.window_clamped() - self.waiting.len();
            match self.commands.poll_recv_many(cx, &mut self.intake, room) {
                Poll::Pending => break,
                Poll::Ready(taken) => commands_gone = taken == 0,
            }
            for call in self.intake.drain(..) {
                self.next_overdue = Some(earlier(self.next_overdue, call.caller.deadline));
                self.waiting.push_back(call);
            }
        }
        let mut asks_gone = false;
        while self.asks.waiting() < self.options.window_clamped() {
            match self.asks_intake.poll_recv(cx) {
                Poll::Pending => break,
                Poll::Ready(None) => {
                    asks_gone = true;
                    break;
                }
                Poll::Ready(Some(call)) => {
                    self.next_overdue = Some(earlier(self.next_overdue, call.deadline()));
                    self.asks.push(call);
                }
            }
        }
        self.handles_gone = commands_gone && asks_gone;
    }

    /// Tells the callers whose time is up.
    fn end_overdue(&mut self, now: Instant) {
        if self.next_overdue.is_none_or(|at| at > now) {
            return;
        }
        let trouble = self.trouble();
        let mut next: Option<Instant> = None;
        for call in std::mem::take(&mut self.waiting) {
            if call.caller.deadline <= now {
                call.caller.end_unreached(&trouble);
            } else {
                next = Some(earlier(next, call.caller.deadline));
                self.waiting.push_back(call);
            }
        }
        self.asks.end_overdue(now, &trouble);
        next = next.into_iter().chain(self.asks.deadlines().min()).min();
        if let Session::Open(window) = &mut self.session {
            window.abandon(|caller| caller.deadline <= now, |caller| caller.end_unknown(&trouble));
            next =
                next.into_iter().chain(window.callers().map(|caller| caller.deadline).min()).min();
        }
        self.next_overdue = next;
    }

    /// Why there is no answer, as far as can be told.
    fn trouble(&self) -> String {
        let mut trouble = match self.leadership.leader() {
            None => "no leader is known".to_owned(),
            Some(leader) if self.peers.link_to(leader).is_some() => {
                format!("node {leader} leads and has not answered")
            }
            Some(leader) => format!("node {leader} leads and cannot be reached"),
        };
        if let Some(body_trouble) = &self.body_trouble {
            trouble = body_trouble.clone();
        }
        for (address, why) in self.peers.troubles() {
            trouble.push_str(&format!("; {address}: {why}"));
        }
        trouble
    }

    fn forget_target(&mut self) {
        self.target = None;
        match &mut self.session {
            Session::Open(window) => window.rewind(),
            Session::Closed { opening } => *opening = None,
            Session::Closing { .. } => {}
        }
    }

    fn leader_link(&self) -> Option<LinkId> {
        self.peers.link_to(self.leadership.candidate()?)
    }

    /// Turns to the leader, or, when none is known for a while, to anybody.
    fn follow_leader(&mut self, now: Instant) {
        let is_lost = self.leadership.leader().is_none() && self.leader_link().is_none();
        if is_lost && self.is_work_left() {
            let guess_at =
                *self.guess_at.get_or_insert_with(|| now + self.entropy.jittered(LEADERLESS));
            if guess_at <= now {
                self.guess_at = None;
                self.guesses += 1;
                let connected: Vec<NodeId> = self.peers.connected().collect();
                if !connected.is_empty() {
                    self.leadership.guess(connected[self.guesses % connected.len()]);
                }
            }
        } else {
            self.guess_at = None;
        }
        // While no leader can be reached, the last one may still answer what it has.
        if let Some(link) = self.leader_link()
            && self.target != Some(link)
        {
            self.forget_target();
            self.asks.on_leader(link);
            self.target = Some(link);
        }
    }

    fn send_session(&mut self, now: Instant) {
        let Some(link) = self.leader_link() else { return };
        match &mut self.session {
            Session::Closed { opening: None } if !self.waiting.is_empty() => {
                let request = self.propose(link, Bytes::from(BlockBuilder::open_session()));
                self.session = Session::Closed { opening: Some(request) };
            }
            Session::Open(window) if self.handles_gone && window.callers().next().is_none() => {
                let goodbye = BlockBuilder::close_session(window.session());
                self.propose(link, Bytes::from(goodbye));
                self.session = Session::Closing { until: now + CLOSE_TIMEOUT };
            }
            Session::Open(_) => self.send_blocks(link),
            Session::Closed { .. } | Session::Closing { .. } => {}
        }
    }

    fn send_blocks(&mut self, link: LinkId) {
        let Session::Open(mut window) = self.take_session() else { return };
        loop {
            while let Some(block) = window.transmit(self.requests + 1) {
                self.propose(link, block);
            }
            let room = self.options.window_clamped().saturating_sub(window.span());
            let is_turn = window.unanswered_blocks() < BLOCKS_IN_FLIGHT_MAX;
            if room == 0 || !is_turn || self.waiting.is_empty() {
                break;
            }
            self.build_block(&mut window, room.min(limits::COMMANDS_PER_BLOCK_MAX));
        }
        self.session = Session::Open(window);
    }

    /// Moves waiting commands, in order, into one block.
    fn build_block(&mut self, window: &mut Window<Caller>, count_max: usize) {
        assert!(window.is_all_sent());
        let monotonic = u64::try_from(self.started_at.elapsed().as_micros()).unwrap_or(u64::MAX);
        let now = Now {
            monotonic: Micros(monotonic),
            wall: Micros::from_millis((self.options.now_millis)()),
            wall_error: Micros::ZERO,
        };
        let mut builder = window.start_block();
        let mut callers = Vec::with_capacity(count_max.min(self.waiting.len()));
        let mut weight = 0;
        while callers.len() < count_max
            && let Some(call) = self.waiting.front()
            && (builder.is_empty()
                || builder.bytes_len() + call.bytes_max <= BLOCK_BYTES_TARGET
                    && weight + call.weight <= BLOCK_WEIGHT_MAX)
        {
            let Some(call) = self.waiting.pop_front() else { break };
            let CommandCall { payload, caller, weight: own, .. } = call;
            weight += own;
            match payload {
                Payload::Encoded(command) => builder.push(&command),
                Payload::Fresh(mut command) => {
                    if let Command::Send { messages } = &mut command {
                        messages.iter_mut().for_each(|m| m.sent_at = self.clock.stamp(now));
                    }
                    builder.push_with(|out| command.encode_into(out));
                }
            }
            callers.push(caller);
        }
        window.push_block(builder, callers);
    }

    fn send_asks(&mut self, now: Instant) {
        let (candidate, leader) = (self.leadership.candidate(), self.leadership.leader());
        let ready = self.paused_until.is_none();
        let (peers, turns) = (&mut self.peers, &mut self.turns);
        let link_to = |peers: &Peers, node| Some((node, peers.link_to(node)?));
        self.asks.send(now, leader, &mut self.requests, |route| match route {
            Route::Node(node) => link_to(peers, node),
            Route::Leader => link_to(peers, candidate.filter(|_| ready)?),
            Route::Anybody if ready => {
                // The leader has enough to do; the others take turns.
                let others: Vec<NodeId> =
                    peers.connected().filter(|node| Some(*node) != leader).collect();
                *turns = turns.wrapping_add(1);
                let node = others.get(*turns % others.len().max(1)).copied();
                link_to(peers, node.or(leader)?)
            }
            Route::Anybody => None,
        });
        for (link, frame, tail) in self.asks.outbound() {
            peers.write(link, &frame, &[tail]);
        }
    }

    fn propose(&mut self, link: LinkId, block: Bytes) -> u64 {
        self.requests += 1;
        let call = ClientFrame::Call { request: self.requests, call: Call::Propose };
        self.peers.write(link, &call, &[block]);
        self.requests
    }

    fn is_work_left(&self) -> bool {
        let in_session = match &self.session {
            Session::Open(window) => window.callers().next().is_some(),
            Session::Closed { .. } => false,
            Session::Closing { .. } => true,
        };
        in_session || !self.waiting.is_empty() || !self.asks.is_empty()
    }

    fn is_finished(&self, now: Instant) -> bool {
        if !self.handles_gone || !self.waiting.is_empty() || !self.asks.is_empty() {
            return false;
        }
        match &self.session {
            Session::Closed { .. } => true,
            // Without a leader there is nobody to say goodbye to; the session will expire.
            Session::Open(window) => {
                window.callers().next().is_none() && self.leader_link().is_none()
            }
            Session::Closing { until } => {
                now >= *until || self.target.is_none_or(|link| self.peers.is_written(link))
            }
        }
    }

    fn publish(&mut self) {
        let is_connecting = self.published.borrow().cluster.cluster.is_none();
        if !std::mem::take(&mut self.is_news) && !is_connecting {
            return;
        }
        let leader = self.leadership.leader();
        let mut nodes: Vec<Node> = self
            .view
            .nodes
            .iter()
            .map(|member| Node {
                node: member.node,
                address: member.address.clone(),
                leader: leader == Some(member.node),
                connected: self.peers.link_to(member.node).is_some(),
                health: member.health,
            })
            .collect();
        nodes.sort_by_key(|node| node.node);
        let own = |(address, trouble): (&str, &str)| (address.to_owned(), trouble.to_owned());
        let news = Published {
            cluster: Cluster {
                // One that the user named is known before anybody has answered.
                cluster: self.peers.cluster().filter(|_| self.has_answer),
                leader,
                term: self.leadership.term(),
                nodes,
            },
            troubles: self.peers.troubles().map(own).collect(),
        };
        self.published.send_if_modified(|published| {
            let is_different = *published != news;
            if is_different {
                *published = news;
            }
            is_different
        });
    }

    fn next_deadline(&self) -> Option<Instant> {
        let closing = match &self.session {
            Session::Closing { until } => Some(*until),
            Session::Open(_) | Session::Closed { .. } => None,
        };
        let release = self.asks.next_release();
        let own = [self.paused_until, self.guess_at, self.next_overdue, closing, release];
        own.into_iter().flatten().chain(self.peers.next_deadline()).min()
    }

    /// Sees to it that the next turn comes in time.
    fn arm(&mut self, cx: &mut Context<'_>) {
        let Some(deadline) = self.next_deadline() else { return };
        let sleep = match &mut self.sleep {
            // An armed timer keeps its waker; one that comes too early costs a turn now and then,
            // moving it at every turn would cost more.
            Some(sleep) if sleep.deadline() <= deadline && !sleep.is_elapsed() => return,
            Some(sleep) => {
                sleep.as_mut().reset(deadline);
                sleep
            }
            None => self.sleep.insert(Box::pin(tokio::time::sleep_until(deadline))),
        };
        if sleep.as_mut().poll(cx).is_ready() {
            cx.waker().wake_by_ref();
        }
    }
}

impl Future for Driver {
    type Output = ();

    fn poll(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<()> {
        let now = Instant::now();
        self.turn(cx, now);
        if self.is_finished(now) {
            return Poll::Ready(());
        }
        self.arm(cx);
        Poll::Pending
    }
}

fn earlier(known: Option<Instant>, other: Instant) -> Instant {
    known.map_or(other, |known| known.min(other))
}

fn answer_command(caller: Caller, ended: Ended) {
    caller.end(match ended {
        Ended::Applied(Reply::Invalid(invalid), _) | Ended::Refused(Reply::Invalid(invalid)) => {
            Err(Rejected::Invalid(invalid).into())
        }
        Ended::Applied(reply, bodies) => Ok((reply, bodies)),
        Ended::Refused(_) => Err(Rejected::Invalid(Invalid::Undecodable).into()),
        Ended::NoSpace(shortage) => Err(Rejected::NoSpace(shortage).into()),
        Ended::Forgotten => Err(Unknown::ReplyForgotten.into()),
        Ended::BodiesMissing => {
            let reason = "it lacks message bodies".to_owned();
            Err(Unknown::Reply { reason }.into())
        }
    });
}
