//! Quantities with their units. No arithmetic crosses units, and none wraps.

use std::fmt;

macro_rules! quantity {
    ($(#[$doc:meta])* $name:ident($inner:ty)) => {
        $(#[$doc])*
        #[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Debug, Default)]
        pub struct $name(pub $inner);

        impl $name {
            pub const ZERO: $name = $name(0);

            /// The sum, or `None` where it would not fit the type.
            #[must_use]
            pub fn checked_add(self, other: $name) -> Option<$name> {
                self.0.checked_add(other.0).map($name)
            }

            /// The difference, or `None` where it would be negative.
            #[must_use]
            pub fn checked_sub(self, other: $name) -> Option<$name> {
                self.0.checked_sub(other.0).map($name)
            }

            /// The difference, at least zero.
            #[must_use]
            pub fn saturating_sub(self, other: $name) -> $name {
                $name(self.0.saturating_sub(other.0))
            }
        }
    };
}

quantity! {
    /// Thousandths of a CPU core.
    CpuMilli(u64)
}
quantity! {
    /// Bytes of host or device memory.
    MemoryBytes(u64)
}
quantity! {
    /// Bytes of disk.
    DiskBytes(u64)
}
quantity! {
    /// Thousandths of one device; 1000 is the whole device.
    ShareMilli(u32)
}

impl ShareMilli {
    /// A whole device.
    pub const WHOLE: ShareMilli = ShareMilli(1000);

    /// Whether it leaves something of the device to others.
    #[must_use]
    pub fn is_part(self) -> bool {
        self < ShareMilli::WHOLE
    }
}

/// As people write it: `0.5`, `0.125`, `1`.
impl fmt::Display for ShareMilli {
    fn fmt(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
        let (whole, milli) = (self.0 / 1000, self.0 % 1000);
        if milli == 0 {
            return write!(formatter, "{whole}");
        }
        let digits = format!("{milli:03}");
        write!(formatter, "{whole}.{}", digits.trim_end_matches('0'))
    }
}

impl fmt::Display for CpuMilli {
    fn fmt(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
        if self.0.is_multiple_of(1000) {
            write!(formatter, "{}", self.0 / 1000)
        } else {
            write!(formatter, "{}m", self.0)
        }
    }
}

impl fmt::Display for MemoryBytes {
    fn fmt(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
        show_bytes(self.0, formatter)
    }
}

impl fmt::Display for DiskBytes {
    fn fmt(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
        show_bytes(self.0, formatter)
    }
}

/// The largest binary unit that shows the amount with at most one decimal.
fn show_bytes(bytes: u64, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
    const UNITS: [(&str, u64); 4] =
        [("TiB", 1 << 40), ("GiB", 1 << 30), ("MiB", 1 << 20), ("KiB", 1 << 10)];
    for (unit, size) in UNITS {
        if bytes >= size {
            let tenths = bytes / (size / 10).max(1);
            return if bytes.is_multiple_of(size) {
                write!(formatter, "{}{unit}", bytes / size)
            } else {
                write!(formatter, "{}.{}{unit}", tenths / 10, tenths % 10)
            };
        }
    }
    write!(formatter, "{bytes}B")
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn amounts_are_shown_with_their_unit() {
        assert_eq!(CpuMilli(4000).to_string(), "4");
        assert_eq!(CpuMilli(500).to_string(), "500m");
        assert_eq!(MemoryBytes(32 << 30).to_string(), "32GiB");
        assert_eq!(MemoryBytes(1536 << 20).to_string(), "1.5GiB");
        assert_eq!(MemoryBytes(12).to_string(), "12B");
        let shares = [1000, 500, 125, 30, 1, 0].map(|milli| ShareMilli(milli).to_string());
        assert_eq!(shares, ["1", "0.5", "0.125", "0.03", "0.001", "0"]);
    }

    #[test]
    fn nothing_wraps() {
        assert_eq!(CpuMilli(u64::MAX).checked_add(CpuMilli(1)), None);
        assert_eq!(ShareMilli(1).checked_sub(ShareMilli(2)), None);
    }
}
