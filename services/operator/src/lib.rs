//! Custom resources to Admin calls.
