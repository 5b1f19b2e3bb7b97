//! Generated protobuf types, one module per package.
//!
//! Written by `aquifer-codegen` from `proto/`; never edited by hand. A test fails when they drift.
#![allow(
    clippy::all,
    unreachable_pub,
    unused_qualifications,
    clippy::allow_attributes_without_reason,
    reason = "generated code is not held to the house rules"
)]

pub mod istio {
    pub mod mesh {
        pub mod v1alpha1 {
            include!("pb/istio.mesh.v1alpha1.rs");
        }
    }
    pub mod workload {
        include!("pb/istio.workload.rs");
    }
    pub mod security {
        include!("pb/istio.security.rs");
    }
    pub mod v1 {
        pub mod auth {
            include!("pb/istio.v1.auth.rs");
        }
    }
}

pub mod envoy {
    pub mod config {
        pub mod core {
            pub mod v3 {
                include!("pb/envoy.config.core.v3.rs");
            }
        }
    }
    pub mod service {
        pub mod discovery {
            pub mod v3 {
                include!("pb/envoy.service.discovery.v3.rs");
            }
        }
    }
}

pub mod google {
    pub mod rpc {
        include!("pb/google.rpc.rs");
    }
}
