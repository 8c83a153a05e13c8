//! Starting and stopping the node; accepting connections and serving them.
