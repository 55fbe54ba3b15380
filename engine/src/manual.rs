//! One message, from send to delivery. (Written when the parts stand.)
