//! Objects in, facts about resources out. Every resource that is made is also read back as the waypoint reads it.

mod bookinfo;
mod fixture;
