//! The clients of a node: their connections, and which answer belongs to which call.
//!
//! Owns the tokens that the engine gets for requests. Never looks into a request.
//! Next: `driver` for who calls this.

use crate::connection::ConnectionId;
use crate::outbound::Outbound;
use bytes::BytesMut;
use engine::api::{Response, Token};
use engine::queue::Reply;
use engine::wire::client::{Greeting, Refusal, ServerFrame, Welcome, write_response};
use engine::wire::{self, TailCheck};
use std::collections::BTreeMap;
use std::net::SocketAddr;
use std::sync::Arc;

/// Connected clients and their unanswered calls.
#[derive(Debug)]
pub(crate) struct Clients {
    connections: BTreeMap<ConnectionId, Client>,
    connections_max: usize,
    calls: Vec<Slot>,
    /// Slots of `calls` without a call.
    vacant: Vec<u32>,
}

#[derive(Debug)]
struct Client {
    address: SocketAddr,
    outbound: Arc<Outbound>,
    unanswered: usize,
}

/// A place for a call. Its generation rises with every use, so that a late answer to a token that was
/// forgotten never reaches whoever got the slot next.
#[derive(Debug)]
struct Slot {
    generation: u32,
    call: Option<Call>,
}

#[derive(Clone, Copy, Debug)]
struct Call {
    connection: ConnectionId,
    /// The client's number for it.
    request: u64,
}

fn split(token: Token) -> (u32, usize) {
    ((token.0 >> 32) as u32, (token.0 & u64::from(u32::MAX)) as usize)
}

fn join(generation: u32, slot: usize) -> Token {
    Token(u64::from(generation) << 32 | slot as u64)
}

impl Clients {
    pub(crate) fn new(connections_max: usize) -> Self {
        Self {
            connections: BTreeMap::new(),
            connections_max,
            calls: Vec::new(),
            vacant: Vec::new(),
        }
    }

    /// Greets a new client, or sends it away if there are too many.
    pub(crate) fn on_opened(
        &mut self,
        connection: ConnectionId,
        address: SocketAddr,
        outbound: Arc<Outbound>,
        welcome: Welcome,
    ) {
        if self.connections.len() >= self.connections_max {
            let refusal = Refusal::Full { max: self.connections_max as u64 };
            tracing::warn!("refused the connection from {address}: {refusal}");
            greet(&outbound, &Greeting::Refused(refusal));
            outbound.finish();
            return;
        }
        greet(&outbound, &Greeting::Welcome(welcome));
        self.connections.insert(connection, Client { address, outbound, unanswered: 0 });
    }

    /// The client is gone: appends the tokens that nobody waits for any more.
    pub(crate) fn on_closed(&mut self, connection: ConnectionId, forgotten: &mut Vec<Token>) {
        let Some(client) = self.connections.remove(&connection) else { return };
        if client.unanswered == 0 {
            return;
        }
        for slot in 0..self.calls.len() {
            if self.calls[slot].call.is_some_and(|call| call.connection == connection) {
                let token = join(self.calls[slot].generation, slot);
                self.vacate(slot);
                forgotten.push(token);
            }
        }
        assert_eq!(forgotten.len(), client.unanswered);
    }

    /// A token for a call; `None` if the connection is gone already.
    pub(crate) fn on_call(&mut self, connection: ConnectionId, request: u64) -> Option<Token> {
        self.connections.get_mut(&connection)?.unanswered += 1;
        let slot = self.vacant.pop().map_or(self.calls.len(), |slot| slot as usize);
        if slot == self.calls.len() {
            self.calls.push(Slot { generation: 0, call: None });
        }
        let place = &mut self.calls[slot];
        assert!(place.call.is_none());
        place.call = Some(Call { connection, request });
        Some(join(place.generation, slot))
    }

    /// Sends the answer to the call of `token`, unless it was forgotten.
    pub(crate) fn respond(&mut self, token: Token, response: Response<Reply>) {
        let (generation, slot) = split(token);
        let Some(place) = self.calls.get(slot) else { return };
        let Some(call) = place.call.filter(|_| place.generation == generation) else { return };
        self.vacate(slot);
        let client = self.connections.get_mut(&call.connection).expect("calls go with clients");
        client.unanswered -= 1;
        client.append(|out| write_response(out, call.request, response));
    }

    /// Sends a frame that is no answer to a token.
    pub(crate) fn send(&self, connection: ConnectionId, frame: &ServerFrame) {
        if let Some(client) = self.connections.get(&connection) {
            client.append(|out| write(out, frame));
        }
    }

    /// Sends a frame to every client.
    pub(crate) fn broadcast(&self, frame: &ServerFrame) {
        if self.connections.is_empty() {
            return;
        }
        let mut bytes = BytesMut::new();
        write(&mut bytes, frame);
        for client in self.connections.values() {
            client.append(|out| out.extend_from_slice(&bytes));
        }
    }

    fn vacate(&mut self, slot: usize) {
        let place = &mut self.calls[slot];
        place.call = None;
        place.generation = place.generation.wrapping_add(1);
        self.vacant.push(u32::try_from(slot).expect("fewer calls than the engine's bound"));
    }
}

impl Client {
    fn append(&self, write: impl FnOnce(&mut BytesMut)) {
        if let Err(overflow) = self.outbound.append(write) {
            // Its calls are forgotten when the connection's task reports the end.
            let (address, waiting) = (self.address, overflow.waiting);
            tracing::warn!(
                "cut off the client at {address}: it does not read, and {waiting} bytes wait for it"
            );
            self.outbound.cut();
        }
    }
}

/// Sends a greeting, which is the first thing on its connection.
pub(crate) fn greet(outbound: &Outbound, greeting: &Greeting) {
    outbound
        .append(|out| wire::write_frame(out, greeting, &[], TailCheck::Frame))
        .expect("an empty queue takes a frame");
}

fn write(out: &mut BytesMut, frame: &ServerFrame) {
    wire::write_frame(out, frame, &[], TailCheck::Frame);
}

#[cfg(test)]
#[allow(clippy::unwrap_used, reason = "a test may fail")]
mod tests {
    use super::*;
    use engine::wire::client::ClusterView;

    fn address() -> SocketAddr {
        SocketAddr::from(([127, 0, 0, 1], 4_000))
    }

    fn welcome() -> Welcome {
        Welcome {
            protocol: 1,
            cluster: engine::ids::ClusterId([1; 16]),
            node: engine::ids::NodeId(1),
            view: ClusterView::default(),
        }
    }

    fn connect(clients: &mut Clients, connection: u64) -> Arc<Outbound> {
        let outbound = Arc::new(Outbound::open(1_000));
        let connection = ConnectionId(connection);
        clients.on_opened(connection, address(), outbound.clone(), welcome());
        outbound
    }

    #[test]
    fn a_client_too_many_is_refused_and_its_connection_finished() {
        let mut clients = Clients::new(1);
        assert!(connect(&mut clients, 1).is_open());
        assert!(!connect(&mut clients, 2).is_open());
        assert_eq!(clients.on_call(ConnectionId(2), 1), None);
        clients.on_closed(ConnectionId(1), &mut Vec::new());
        assert!(connect(&mut clients, 3).is_open());
    }

    #[test]
    fn a_gone_client_leaves_exactly_its_unanswered_calls_to_forget() {
        let mut clients = Clients::new(10);
        connect(&mut clients, 1);
        connect(&mut clients, 2);
        let first = clients.on_call(ConnectionId(1), 70).unwrap();
        let answered = clients.on_call(ConnectionId(1), 71).unwrap();
        let others = clients.on_call(ConnectionId(2), 70).unwrap();
        clients.respond(answered, Response::Ready);
        let mut forgotten = Vec::new();
        clients.on_closed(ConnectionId(1), &mut forgotten);
        assert_eq!(forgotten, [first]);
        assert_ne!(first, others);
    }

    #[test]
    fn a_late_answer_to_a_forgotten_call_reaches_nobody() {
        let mut clients = Clients::new(10);
        connect(&mut clients, 1);
        connect(&mut clients, 2);
        let late = clients.on_call(ConnectionId(1), 1).unwrap();
        clients.on_closed(ConnectionId(1), &mut Vec::new());
        let next = clients.on_call(ConnectionId(2), 1).unwrap();
        assert_eq!(split(late).1, split(next).1, "the slot is used again");
        clients.respond(late, Response::Ready);
        assert_eq!(clients.connections[&ConnectionId(2)].unanswered, 1);
        clients.respond(next, Response::Ready);
        assert_eq!(clients.connections[&ConnectionId(2)].unanswered, 0);
    }

    #[test]
    fn a_client_that_never_reads_is_cut() {
        let mut clients = Clients::new(10);
        let outbound = connect(&mut clients, 1);
        for request in 0..1_000 {
            clients.send(ConnectionId(1), &ServerFrame::Pong(request));
        }
        assert!(!outbound.is_open());
    }
}
