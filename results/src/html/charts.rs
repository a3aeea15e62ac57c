//! The charts, each from documents to lines or rows.

pub(super) mod costs;
pub(super) mod curve;
pub(super) mod fairness;
pub(super) mod forest;
pub(super) mod rounds;
pub(super) mod spectrum;
pub(super) mod timeline;
