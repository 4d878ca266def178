//! The replicated key-value store that ships with Quorate.
