//! The dtypes of the safetensors format, and the way of the floating ones to the numbers that kernels compute in.
//!
//! All dtypes are known, so that any checkpoint can be read and copied; only those of [`Dtype::is_float`] merge.
//! [`decode`] is exact, [`encode`] rounds once to nearest even; together they give back every bit pattern.

mod convert;
mod pattern;
mod real;
#[cfg(test)]
mod tests;

pub use self::convert::{decode, encode};
pub use self::real::Real;

/// One line a dtype: variant, name in the format, bits of an element, then the names in a `config.json` or recipe, the
/// first of which is the one written.
macro_rules! dtypes {
    ($($(#[$doc:meta])* $variant:ident, $name:literal, $bits:literal, [$($config:literal),*];)*) => {
        /// How the elements of a tensor are stored. Ordered as the format orders them, smaller ones first.
        #[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
        pub enum Dtype {
            $($(#[$doc])* $variant,)*
        }

        impl Dtype {
            /// Every dtype of the format.
            pub const ALL: &[Self] = &[$(Self::$variant),*];

            /// The name in the format: `BF16`.
            #[must_use]
            pub fn name(self) -> &'static str {
                match self {
                    $(Self::$variant => $name,)*
                }
            }

            /// Bits of one element; below 8 where several share a byte.
            #[must_use]
            pub fn bits(self) -> u64 {
                match self {
                    $(Self::$variant => $bits,)*
                }
            }

            /// All names that a configuration may use, without `torch.`.
            fn config_names(self) -> &'static [&'static str] {
                match self {
                    $(Self::$variant => &[$($config),*],)*
                }
            }
        }
    };
}

dtypes! {
    /// One byte, 0 or 1.
    BOOL, "BOOL", 8, ["bool"];
    /// MX float of 4 bits.
    F4, "F4", 4, [];
    /// MX float of 6 bits, 2 of them exponent.
    F6E2M3, "F6_E2M3", 6, [];
    /// MX float of 6 bits, 3 of them exponent.
    F6E3M2, "F6_E3M2", 6, [];
    /// Unsigned byte.
    U8, "U8", 8, ["uint8"];
    /// Signed byte.
    I8, "I8", 8, ["int8"];
    /// Float of 8 bits, 5 of them exponent, with infinities.
    F8E5M2, "F8_E5M2", 8, ["float8_e5m2"];
    /// Float of 8 bits, 4 of them exponent, without infinities (torch: `e4m3fn`).
    F8E4M3, "F8_E4M3", 8, ["float8_e4m3fn", "float8_e4m3"];
    /// A power of two: 8 bits of exponent alone.
    F8E8M0, "F8_E8M0", 8, ["float8_e8m0fnu"];
    /// `F8_E4M3` of another bias, without infinities and −0.
    F8E4M3Fnuz, "F8_E4M3FNUZ", 8, ["float8_e4m3fnuz"];
    /// `F8_E5M2` of another bias, without infinities and −0.
    F8E5M2Fnuz, "F8_E5M2FNUZ", 8, ["float8_e5m2fnuz"];
    /// Signed, 16 bits.
    I16, "I16", 16, ["int16"];
    /// Unsigned, 16 bits.
    U16, "U16", 16, ["uint16"];
    /// IEEE half precision.
    F16, "F16", 16, ["float16", "fp16", "half"];
    /// The upper half of a single.
    BF16, "BF16", 16, ["bfloat16", "bf16"];
    /// Signed, 32 bits.
    I32, "I32", 32, ["int32"];
    /// Unsigned, 32 bits.
    U32, "U32", 32, ["uint32"];
    /// IEEE single precision.
    F32, "F32", 32, ["float32", "fp32", "float"];
    /// Two singles: real and imaginary part.
    C64, "C64", 64, ["complex64"];
    /// IEEE double precision.
    F64, "F64", 64, ["float64", "fp64", "double"];
    /// Signed, 64 bits.
    I64, "I64", 64, ["int64"];
    /// Unsigned, 64 bits.
    U64, "U64", 64, ["uint64"];
}

impl Dtype {
    /// The dtype of this name in the format.
    #[must_use]
    pub fn from_name(name: &str) -> Option<Self> {
        Self::ALL.iter().copied().find(|dtype| dtype.name() == name)
    }

    /// The dtype of this name in a `config.json` or a recipe: `bfloat16`, `torch.bfloat16`, `bf16`.
    #[must_use]
    pub fn from_config(name: &str) -> Option<Self> {
        let name = name.strip_prefix("torch.").unwrap_or(name);
        Self::ALL.iter().copied().find(|dtype| dtype.config_names().contains(&name))
    }

    /// The name that a `config.json` of this dtype holds: `bfloat16`.
    #[must_use]
    pub fn config_name(self) -> Option<&'static str> {
        self.config_names().first().copied()
    }

    /// Whether numbers of it merge.
    #[must_use]
    pub fn is_float(self) -> bool {
        matches!(self, Self::BF16 | Self::F16 | Self::F32 | Self::F64 | Self::F8E4M3 | Self::F8E5M2)
    }

    /// Bytes of so many elements; nothing where they are not whole bytes, or too many to count.
    #[must_use]
    pub fn bytes_for(self, elements: u64) -> Option<u64> {
        let bits = u128::from(elements) * u128::from(self.bits());
        if bits % 8 == 0 { u64::try_from(bits / 8).ok() } else { None }
    }
}
