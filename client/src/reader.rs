//! Looking at queues without changing them, as new as the caller wants it.
//!
//! A [`Reader`] asks the leader, any node, or any node for whatever it happens to know. Never takes a
//! message. Next: `api` for the calls that change something.

use crate::api::{Client, decode, invalid, unexpected};
use crate::call::{Answered, Ask, Caller};
use crate::error::CallError;
use crate::message::{Stored, check_count, check_queue};
use bytes::Bytes;
use engine::hlc::Hlc;
use engine::ids::{LogIndex, MessageId, NodeId, Position};
use engine::limits;
use engine::queue::{Browsed, Query, QueueInfo, Reply};

/// Queues that one call lists: their names, 255 bytes each at most, must fit into one frame's head.
const LIST_PAGE: u32 = 1_024;
const _: () = assert!(LIST_PAGE as usize * 512 <= limits::FRAME_HEAD_BYTES_MAX);

/// Who answers a read, and so how new the answer is.
#[derive(Clone, Copy, PartialEq, Eq, Hash, Default, Debug)]
pub enum ReadFrom {
    /// The leader; as new as whatever was acknowledged before the read began.
    #[default]
    Leader,
    /// Any node, which asks the leader from where on; just as new, and the leader has less to do.
    Anywhere,
    /// Any node, at once, from what it has applied, however old; also without a leader.
    Stale,
}

/// An answer, and when it was true.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct Read<T> {
    /// The answer.
    pub value: T,
    /// The log entry after which it was true.
    pub at: LogIndex,
    /// That entry's stamp, of a stale read: on a busy cluster, when the answer was true.
    pub log_time: Option<Hlc>,
    /// The node that answered.
    pub node: NodeId,
}

impl<T> Read<T> {
    fn map<U>(self, map: impl FnOnce(T) -> Result<U, CallError>) -> Result<Read<U>, CallError> {
        let Self { value, at, log_time, node } = self;
        Ok(Read { value: map(value)?, at, log_time, node })
    }
}

/// Reads, from where it was made for; see [`Client::reader`].
#[derive(Clone, Debug)]
pub struct Reader {
    client: Client,
    from: ReadFrom,
}

impl Reader {
    pub(crate) fn new(client: Client, from: ReadFrom) -> Self {
        Self { client, from }
    }

    /// Looks a message up by id, if it is waiting or leased.
    ///
    /// # Errors
    /// As every call; a read has no effect, so it is never unknown for want of an answer.
    pub async fn get(&self, queue: &str, id: MessageId) -> Result<Read<Option<Stored>>, CallError> {
        check_queue(queue).map_err(invalid)?;
        let read = self.query(Query::Get { queue: queue.to_owned(), id }).await?;
        read.map(|(reply, bodies)| match reply {
            Reply::Got(found) => {
                found.zip(bodies.first()).map(|(found, body)| stored(found, body)).transpose()
            }
            other => Err(unexpected(&other)),
        })
    }

    /// Looks at messages of a queue in order, waiting and leased, without taking them: at most
    /// `max` (1 to 4,096), and only later ones than `after`.
    ///
    /// # Errors
    /// As [`get`](Self::get).
    pub async fn browse(
        &self,
        queue: &str,
        after: Option<Position>,
        max: usize,
    ) -> Result<Read<Vec<Stored>>, CallError> {
        check_queue(queue).map_err(invalid)?;
        check_count(max, limits::MESSAGES_PER_RECEIVE_MAX).map_err(invalid)?;
        let max = u32::try_from(max).expect("checked above");
        let read = self.query(Query::Browse { queue: queue.to_owned(), after, max }).await?;
        read.map(|(reply, bodies)| match reply {
            Reply::Browsed(found) => {
                found.into_iter().zip(&bodies).map(|(found, body)| stored(found, body)).collect()
            }
            other => Err(unexpected(&other)),
        })
    }

    /// All queues in the order of their names. Where they take several answers, the oldest counts.
    ///
    /// # Errors
    /// As [`get`](Self::get).
    pub async fn list(&self) -> Result<Read<Vec<QueueInfo>>, CallError> {
        let mut all: Option<Read<Vec<QueueInfo>>> = None;
        loop {
            let last = all.as_ref().and_then(|all| all.value.last());
            let after = last.map(|queue| queue.name.clone());
            let page = self.query(Query::List { after, max: LIST_PAGE }).await?;
            let page = page.map(|(reply, _)| match reply {
                Reply::Queues(page) => Ok(page),
                other => Err(unexpected(&other)),
            })?;
            let is_last = page.value.len() < LIST_PAGE as usize;
            all = Some(match all {
                None => page,
                Some(before) => join(before, page),
            });
            if let Some(all) = all.take_if(|_| is_last) {
                return Ok(all);
            }
        }
    }

    async fn query(&self, query: Query) -> Result<Read<Answered>, CallError> {
        let (caller, answer) = Caller::new(self.client.timeout());
        self.client.ask(Ask::Query { query, from: self.from, caller }, answer).await
    }
}

fn join(mut before: Read<Vec<QueueInfo>>, page: Read<Vec<QueueInfo>>) -> Read<Vec<QueueInfo>> {
    before.value.extend(page.value);
    if page.at < before.at {
        (before.at, before.log_time, before.node) = (page.at, page.log_time, page.node);
    }
    before
}

fn stored(found: Browsed, body: &Bytes) -> Result<Stored, CallError> {
    let Browsed { receipt, len: _, attempts, unavailable_until } = found;
    Ok(Stored { receipt, message: decode(body)?, attempts, unavailable_until })
}
