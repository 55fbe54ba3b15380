//! What clients ask of the node: handed to the engine, answered from what the node itself knows, or
//! refused because it is leaving.

use super::{Driver, role_name};
use crate::connection::ConnectionId;
use crate::ports::{ClockPort, DiskPort};
use bytes::Bytes;
use engine::api::{Rejection, Request, Response};
use engine::replica::Input;
use engine::wire::client::{Call, ClientFrame, NodeStatus, ServerFrame};

impl<D: DiskPort, C: ClockPort> Driver<D, C> {
    pub(super) fn on_client_frame(
        &mut self,
        connection: ConnectionId,
        frame: ClientFrame,
        tail: Bytes,
    ) {
        let (request, call) = match frame {
            ClientFrame::Ping(number) => {
                return self.clients.send(connection, &ServerFrame::Pong(number));
            }
            ClientFrame::Call { request, call } => (request, call),
        };
        let asked = match call {
            Call::Propose => Request::Propose(tail),
            Call::Query => Request::Query(tail),
            Call::QueryHere => Request::QueryHere(tail),
            Call::QueryStale => Request::QueryStale(tail),
            Call::Change(change) => Request::Change(change),
            Call::Transfer { to } => Request::Transfer { to },
            Call::Watch { timeout } => {
                Request::Watch { query: tail, until: self.now.monotonic + timeout }
            }
            Call::Backup(request) => Request::Backup(request),
            Call::Status => {
                let status = Box::new(self.node_status());
                return self.clients.send(connection, &ServerFrame::Status { request, status });
            }
        };
        let Some(token) = self.clients.on_call(connection, request) else { return };
        if self.is_removed || self.stopping.is_some() {
            // Whoever is asked instead is in the view that the client has.
            return self.clients.respond(token, Response::Rejected(Rejection::ShuttingDown));
        }
        self.step(Input::Client { token, request: asked });
    }

    fn node_status(&self) -> NodeStatus {
        let status = self.replica.status();
        let (segments, log_bytes) = self.replica.store_size();
        NodeStatus {
            node: status.node,
            cluster: self.cluster,
            role: role_name(status.role).to_owned(),
            term: status.term,
            leader: status.leader,
            first_index: status.first_index,
            last_index: status.last_index,
            durable_index: status.durable_index,
            commit_index: status.commit_index,
            applied_index: status.applied_index,
            log_time: self.log_time.0,
            messages: self.replica.machine().message_count(),
            queues: self.replica.machine().queue_count(),
            sessions: status.sessions as u64,
            segments,
            log_bytes,
            membership: status.membership,
            membership_index: status.membership_index,
            is_removed: status.is_removed,
            is_fit: status.is_fit,
            missing: status.missing,
            lost: status.lost,
            snapshot_index: status.snapshot_index,
            followers: status.followers,
            transfer: status.transfer,
            priority: self.priority,
            uptime: self.now.monotonic,
            version: env!("CARGO_PKG_VERSION").to_owned(),
            room: status.room,
        }
    }
}
