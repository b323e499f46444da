//! Runs of documents, decided and replayed.
