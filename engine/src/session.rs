//! Client sessions: what makes a retried command take effect once (Ongaro's thesis, §6.3).
//! (Skeleton.)
