//! The disk fails: its power is cut, a call fails, it is full, its bits rot. Seen by clients that remember every answer.
//!
//! What was acknowledged must be there afterwards and end once; what cannot be trusted any more must be refused with its
//! place. Everything random comes from a seed, which is printed: `MESH_SEED` runs it again.

mod calls;
mod cuts;
mod damage;
mod full;
mod load;
