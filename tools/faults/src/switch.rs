//! Builds that are broken on purpose: each leaves out one kind of sync, or a step, as if the line that asks for it
//! were missing. The simulation has to find out.

use ringspun::storage::memory::Lie;

/// What the process is doing.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Phase {
    Start,
    Open,
    Flush,
    Clean,
    Checkpoint,
    Delete,
    Rename,
    Stop,
    Other,
}

/// A sync, or a step, that is left out.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Switch {
    /// Of the segments, before the recovery point moves.
    Data,
    /// Of the indexes of closed segments.
    Indexes,
    /// Of the transaction indexes of closed segments.
    TxnIndexes,
    /// Of the folder, after a roll.
    FolderAfterRoll,
    /// Of `leader-epoch-checkpoint`.
    Epochs,
    /// Of `partition.metadata`.
    Metadata,
    /// Of the segment that the cleaner wrote.
    CleanedSegment,
    /// Of a checkpoint of the data directory.
    Checkpoint,
    /// Of the data directory, when the clean-shutdown mark was taken.
    CleanMark,
    /// Of the checkpoints before the log is cut, all.
    LoweredCheckpoint,
    /// Of the checkpoints before the log is emptied, all.
    EmptiedCheckpoint,
    /// Of the data directory, when the folder of a log has its name as a deleted one.
    DeletedName,
    /// Of the checkpoints before a log gets the name of a deleted one, all.
    DeletedCheckpoint,
    /// Of the data directory, when the folder of a log has another name.
    RenamedFolder,
}

impl Switch {
    pub const ALL: [Self; 14] = [
        Self::Data,
        Self::Indexes,
        Self::TxnIndexes,
        Self::FolderAfterRoll,
        Self::Epochs,
        Self::Metadata,
        Self::CleanedSegment,
        Self::Checkpoint,
        Self::CleanMark,
        Self::LoweredCheckpoint,
        Self::EmptiedCheckpoint,
        Self::DeletedName,
        Self::DeletedCheckpoint,
        Self::RenamedFolder,
    ];

    /// When the disk lies; `None` for a step, which whoever takes it leaves out.
    pub(crate) fn phase(self) -> Option<Phase> {
        Some(match self {
            Self::Data
            | Self::Indexes
            | Self::TxnIndexes
            | Self::FolderAfterRoll
            | Self::Epochs
            | Self::Metadata => Phase::Flush,
            Self::CleanedSegment => Phase::Clean,
            Self::Checkpoint => Phase::Checkpoint,
            Self::CleanMark => Phase::Start,
            Self::DeletedName => Phase::Delete,
            Self::RenamedFolder => Phase::Rename,
            Self::LoweredCheckpoint | Self::EmptiedCheckpoint | Self::DeletedCheckpoint => {
                return None;
            }
        })
    }

    pub(crate) fn lie(self) -> Option<Lie> {
        let folder = |nth| Lie::Dirs {
            ends_with: "-0",
            nth,
        };
        let data_dir = Lie::Dirs {
            ends_with: "data",
            nth: 0,
        };
        Some(match self {
            Self::Data => Lie::Files(".log"),
            Self::Indexes => Lie::Files(".index"),
            Self::TxnIndexes => Lie::Files(".txnindex"),
            Self::FolderAfterRoll => folder(0),
            Self::CleanMark | Self::DeletedName | Self::RenamedFolder => data_dir,
            Self::Epochs => Lie::Files("leader-epoch-checkpoint.tmp"),
            Self::Metadata => Lie::Files("partition.metadata"),
            Self::CleanedSegment => Lie::Files(".cleaned"),
            Self::Checkpoint => Lie::Files(".tmp"),
            Self::LoweredCheckpoint | Self::EmptiedCheckpoint | Self::DeletedCheckpoint => {
                return None;
            }
        })
    }
}
