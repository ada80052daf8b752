//! The macro for enums whose values have a name in metrics and in the log. Metrics, `docs/logging.md` and the tests all
//! read the names from here, so a value cannot have two.

/// Makes an enum of `Value = "label"` lines. `label` is the name in metrics. `name` is the name in the log: the label,
/// after the prefix.
macro_rules! labelled {
    (
        $(#[$meta:meta])*
        pub(crate) enum $Enum:ident, log prefix $prefix:literal {
            $($(#[doc = $doc:literal])+ $Value:ident = $label:literal,)*
        }
    ) => {
        $(#[$meta])*
        #[derive(Clone, Copy, PartialEq, Eq, Debug)]
        #[repr(u8)]
        pub(crate) enum $Enum { $($(#[doc = $doc])+ $Value,)* }

        impl $Enum {
            /// Every value, in the order of its definition.
            pub(crate) const ALL: &[$Enum] = &[$($Enum::$Value,)*];

            /// The name in metrics.
            pub(crate) fn label(self) -> &'static str {
                match self { $($Enum::$Value => $label,)* }
            }

            /// The name in the log (docs/logging.md).
            pub(crate) fn name(self) -> &'static str {
                match self { $($Enum::$Value => concat!($prefix, $label),)* }
            }
        }
    };
}
pub(crate) use labelled;
