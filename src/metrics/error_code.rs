//! The error codes of HTTP/2, for the counts of streams and connections that the server has ended (RFC 9113 §7).

/// An error code.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
#[repr(usize)]
#[allow(missing_docs, reason = "RFC 9113 §7 describes them")]
pub enum ErrorCode {
    NoError,
    ProtocolError,
    InternalError,
    FlowControlError,
    SettingsTimeout,
    StreamClosed,
    FrameSizeError,
    RefusedStream,
    Cancel,
    CompressionError,
    ConnectError,
    EnhanceYourCalm,
    InadequateSecurity,
    Http11Required,
    /// Any other.
    Other,
}

impl ErrorCode {
    /// All codes, each at the place of its number.
    pub const ALL: [Self; 15] = [
        Self::NoError,
        Self::ProtocolError,
        Self::InternalError,
        Self::FlowControlError,
        Self::SettingsTimeout,
        Self::StreamClosed,
        Self::FrameSizeError,
        Self::RefusedStream,
        Self::Cancel,
        Self::CompressionError,
        Self::ConnectError,
        Self::EnhanceYourCalm,
        Self::InadequateSecurity,
        Self::Http11Required,
        Self::Other,
    ];

    /// Returns the code with this number.
    pub fn of(number: u32) -> Self {
        usize::try_from(number).ok().and_then(|at| Self::ALL.get(at).copied()).unwrap_or(Self::Other)
    }

    /// Returns the code's name in metrics.
    pub fn name(self) -> &'static str {
        match self {
            Self::NoError => "no_error",
            Self::ProtocolError => "protocol_error",
            Self::InternalError => "internal_error",
            Self::FlowControlError => "flow_control_error",
            Self::SettingsTimeout => "settings_timeout",
            Self::StreamClosed => "stream_closed",
            Self::FrameSizeError => "frame_size_error",
            Self::RefusedStream => "refused_stream",
            Self::Cancel => "cancel",
            Self::CompressionError => "compression_error",
            Self::ConnectError => "connect_error",
            Self::EnhanceYourCalm => "enhance_your_calm",
            Self::InadequateSecurity => "inadequate_security",
            Self::Http11Required => "http_1_1_required",
            Self::Other => "other",
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn codes_have_the_numbers_of_the_standard() {
        for (number, code) in (0..).zip(ErrorCode::ALL) {
            assert_eq!(ErrorCode::of(number), code);
        }
        let known = [(0, "no_error"), (7, "refused_stream"), (8, "cancel"), (11, "enhance_your_calm"), (99, "other")];
        for (number, name) in known {
            assert_eq!(ErrorCode::of(number).name(), name);
        }
    }
}
