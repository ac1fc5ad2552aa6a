//! The answer to an A-ASSOCIATE-RQ (PS3.8 9.3.2 to 9.3.4), without I/O.

use std::collections::BTreeMap;

use dicom_ul::pdu::{
    AssociationAC, AssociationRJ, AssociationRJResult, AssociationRJServiceProviderASCEReason,
    AssociationRJServiceProviderPresentationReason, AssociationRJServiceUserReason,
    AssociationRJSource, AssociationRQ, PresentationContextProposed, PresentationContextResult,
    PresentationContextResultReason, RequestorRoles, UserVariableItem,
};
use study::part10::{IMPLEMENTATION_CLASS_UID, IMPLEMENTATION_VERSION_NAME};
use study::{SopClassUid, TransferSyntaxUid};

use crate::scp::{ContextRefusal, Contexts, Rejection, ScpConfig};
use crate::transfer_syntax::{choose, choose_parsed};
use crate::{SERVICE_CLASSES, Service, is_storage_class};

/// The name of DICOM's application context (PS3.7 A.2.1).
pub(crate) const APPLICATION_CONTEXT: &str = "1.2.840.10008.3.1.1.1";
/// What stands for the transfer syntax of a context that was refused; it says nothing there.
const IMPLICIT_LITTLE: &str = "1.2.840.10008.1.2";

/// An accepted presentation context.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct Accepted {
    pub(crate) sop_class: SopClassUid,
    pub(crate) service: Service,
    pub(crate) transfer_syntax: TransferSyntaxUid,
}

/// What an association was accepted with.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct Agreement {
    pub(crate) contexts: BTreeMap<u8, Accepted>,
    /// The longest P-DATA-TF the peer takes; 0 is no limit.
    pub(crate) peer_pdu_max: u32,
    pub(crate) summary: Contexts,
}

/// Decides on a request.
pub(crate) fn answer(
    request: &AssociationRQ,
    config: &ScpConfig,
) -> Result<(AssociationAC, Agreement), Rejection> {
    // Only bit 0 says version 1, the others are not tested (PS3.8 9.3.2).
    if request.protocol_version & 1 == 0 {
        return Err(Rejection::ProtocolVersion);
    }
    if unpadded(&request.application_context_name) != APPLICATION_CONTEXT {
        return Err(Rejection::ApplicationContext);
    }
    if !config.accept_any_called && unpadded(&request.called_ae_title) != config.ae_title.as_str() {
        return Err(Rejection::CalledTitle);
    }
    let mut agreement = Agreement {
        contexts: BTreeMap::new(),
        peer_pdu_max: pdu_max(&request.user_variables),
        summary: Contexts::default(),
    };
    let results = request
        .presentation_contexts
        .iter()
        .map(|c| agreement.settle(c, config))
        .collect();
    agreement.summary.accepted = agreement.contexts.len();
    let mut variables = user_variables(config.pdu_bytes_max);
    variables.extend(agreement.roles(&request.user_variables));
    let accept = AssociationAC {
        protocol_version: 1,
        calling_ae_title: request.calling_ae_title.clone(),
        called_ae_title: request.called_ae_title.clone(),
        application_context_name: APPLICATION_CONTEXT.to_string(),
        presentation_contexts: results,
        user_variables: variables,
    };
    Ok((accept, agreement))
}

impl Agreement {
    /// The answers to proposed roles: the peer is the user of what we accepted, and no provider.
    fn roles(&self, proposed: &[UserVariableItem]) -> Vec<UserVariableItem> {
        let answer = |item: &UserVariableItem| {
            let UserVariableItem::ScuScpRoleSelectionSubItem(uid, roles) = item else {
                return None;
            };
            let class = SopClassUid::parse(uid).ok()?;
            let is_accepted = self.contexts.values().any(|c| c.sop_class == class);
            let agreed = RequestorRoles {
                scu: roles.scu,
                scp: false,
            };
            is_accepted.then(|| UserVariableItem::ScuScpRoleSelectionSubItem(uid.clone(), agreed))
        };
        proposed.iter().filter_map(answer).collect()
    }

    fn settle(
        &mut self,
        proposed: &PresentationContextProposed,
        config: &ScpConfig,
    ) -> PresentationContextResult {
        let verdict = if proposed.id.is_multiple_of(2) || self.contexts.contains_key(&proposed.id) {
            // Not a context ID, or one that stands for another context.
            Err(PresentationContextResultReason::NoReason)
        } else {
            accepted(proposed, config).map_err(|refusal| {
                let sop_class = SopClassUid::parse(&proposed.abstract_syntax).ok();
                self.summary.refused.push((sop_class, refusal));
                match refusal {
                    ContextRefusal::AbstractSyntax => {
                        PresentationContextResultReason::AbstractSyntaxNotSupported
                    }
                    ContextRefusal::TransferSyntaxes => {
                        PresentationContextResultReason::TransferSyntaxesNotSupported
                    }
                }
            })
        };
        let (reason, transfer_syntax) = match verdict {
            Ok(accepted) => {
                let transfer_syntax = accepted.transfer_syntax.as_str().to_string();
                self.contexts.insert(proposed.id, accepted);
                (PresentationContextResultReason::Acceptance, transfer_syntax)
            }
            Err(reason) => (reason, IMPLICIT_LITTLE.to_string()),
        };
        PresentationContextResult {
            id: proposed.id,
            reason,
            transfer_syntax,
        }
    }
}

fn accepted(
    proposed: &PresentationContextProposed,
    config: &ScpConfig,
) -> Result<Accepted, ContextRefusal> {
    let sop_class = SopClassUid::parse(&proposed.abstract_syntax)
        .map_err(|_| ContextRefusal::AbstractSyntax)?;
    let service = service_of(&sop_class, config).ok_or(ContextRefusal::AbstractSyntax)?;
    let chosen = match service {
        Service::Verification | Service::Storage => choose(&proposed.transfer_syntaxes),
        Service::Worklist | Service::Commitment | Service::PerformedStep => {
            choose_parsed(&proposed.transfer_syntaxes)
        }
    };
    Ok(Accepted {
        sop_class,
        service,
        transfer_syntax: chosen.ok_or(ContextRefusal::TransferSyntaxes)?,
    })
}

/// The service behind a SOP class, if it is served.
fn service_of(sop_class: &SopClassUid, config: &ScpConfig) -> Option<Service> {
    if is_storage_class(sop_class.as_str()) || config.private_classes.contains(sop_class) {
        return Some(Service::Storage);
    }
    let row = SERVICE_CLASSES
        .iter()
        .find(|(uid, ..)| *uid == sop_class.as_str());
    row.map(|(_, _, service)| *service)
        .filter(|service| *service == Service::Verification || config.services.contains(service))
}

/// The A-ASSOCIATE-RJ for a rejection.
pub(crate) fn reject(rejection: &Rejection) -> AssociationRJ {
    use AssociationRJServiceProviderASCEReason as Acse;
    use AssociationRJServiceProviderPresentationReason as Presentation;
    use AssociationRJServiceUserReason as User;
    let (result, source) = match rejection {
        Rejection::CalledTitle => (
            AssociationRJResult::Permanent,
            AssociationRJSource::ServiceUser(User::CalledAETitleNotRecognized),
        ),
        Rejection::CallingTitle => (
            AssociationRJResult::Permanent,
            AssociationRJSource::ServiceUser(User::CallingAETitleNotRecognized),
        ),
        Rejection::ApplicationContext => (
            AssociationRJResult::Permanent,
            AssociationRJSource::ServiceUser(User::ApplicationContextNameNotSupported),
        ),
        Rejection::ProtocolVersion => (
            AssociationRJResult::Permanent,
            AssociationRJSource::ServiceProviderASCE(Acse::ProtocolVersionNotSupported),
        ),
        Rejection::LocalLimit(_) => (
            AssociationRJResult::Transient,
            AssociationRJSource::ServiceProviderPresentation(Presentation::LocalLimitExceeded),
        ),
    };
    AssociationRJ { result, source }
}

/// The user information of ours, for both roles.
///
/// Asynchronous operations, extended negotiation and user identity of a peer go unanswered, which is how
/// an acceptor says that it keeps to the defaults (PS3.7 D.3.3).
pub(crate) fn user_variables(pdu_bytes_max: u32) -> Vec<UserVariableItem> {
    vec![
        UserVariableItem::MaxLength(pdu_bytes_max),
        UserVariableItem::ImplementationClassUID(IMPLEMENTATION_CLASS_UID.to_string()),
        UserVariableItem::ImplementationVersionName(IMPLEMENTATION_VERSION_NAME.to_string()),
    ]
}

/// The longest P-DATA-TF that the sender of these takes; 0 is no limit.
pub(crate) fn pdu_max(user_variables: &[UserVariableItem]) -> u32 {
    user_variables
        .iter()
        .find_map(|item| {
            if let UserVariableItem::MaxLength(max) = item {
                Some(*max)
            } else {
                None
            }
        })
        .unwrap_or(0)
}

/// Takes off the padding that PS3.8 9.3.2 and annex F allow, and the NUL that some peers add.
fn unpadded(text: &str) -> &str {
    text.trim_matches([' ', '\0'])
}

#[cfg(test)]
mod tests {
    use study::AeTitle;

    use super::*;

    const CT: &str = "1.2.840.10008.5.1.4.1.1.2";
    const PRIVATE_CLASS: &str = "1.2.840.113619.4.26";
    const EXPLICIT_LITTLE: &str = "1.2.840.10008.1.2.1";

    fn config() -> ScpConfig {
        ScpConfig::new(AeTitle::parse("CHASQUI").unwrap())
    }

    fn request(contexts: &[(u8, &str, &[&str])]) -> AssociationRQ {
        AssociationRQ {
            protocol_version: 1,
            calling_ae_title: "CT1".to_string(),
            called_ae_title: "CHASQUI".to_string(),
            application_context_name: APPLICATION_CONTEXT.to_string(),
            presentation_contexts: contexts
                .iter()
                .map(|(id, class, syntaxes)| PresentationContextProposed {
                    id: *id,
                    abstract_syntax: (*class).to_string(),
                    transfer_syntaxes: syntaxes.iter().map(ToString::to_string).collect(),
                })
                .collect(),
            user_variables: vec![UserVariableItem::MaxLength(16_384)],
        }
    }

    fn results(accept: &AssociationAC) -> Vec<(u8, u8, &str)> {
        accept
            .presentation_contexts
            .iter()
            .map(|c| (c.id, c.reason.clone() as u8, c.transfer_syntax.as_str()))
            .collect()
    }

    #[test]
    fn each_context_gets_its_own_result() {
        let request = request(&[
            (1, CT, &[IMPLICIT_LITTLE, EXPLICIT_LITTLE]),
            (3, PRIVATE_CLASS, &[EXPLICIT_LITTLE]),
            (5, CT, &["1.2.840.113619.5.2"]),
            (5, CT, &[EXPLICIT_LITTLE]),
            (5, CT, &[EXPLICIT_LITTLE]),
            (6, CT, &[EXPLICIT_LITTLE]),
            (7, CT, &[]),
            (9, "../../x", &[EXPLICIT_LITTLE]),
        ]);
        let (accept, agreement) = answer(&request, &config()).unwrap();
        assert_eq!(
            results(&accept),
            [
                (1, 0, EXPLICIT_LITTLE),
                (3, 3, IMPLICIT_LITTLE),
                (5, 4, IMPLICIT_LITTLE),
                (5, 0, EXPLICIT_LITTLE),
                (5, 2, IMPLICIT_LITTLE),
                (6, 2, IMPLICIT_LITTLE),
                (7, 4, IMPLICIT_LITTLE),
                (9, 3, IMPLICIT_LITTLE),
            ]
        );
        assert_eq!(
            agreement.contexts.keys().copied().collect::<Vec<_>>(),
            [1, 5]
        );
        assert_eq!(agreement.peer_pdu_max, 16_384);
        assert_eq!(agreement.summary.refused.len(), 4);
    }

    #[test]
    fn a_private_class_is_taken_when_the_configuration_names_it() {
        let mut config = config();
        config
            .private_classes
            .push(SopClassUid::parse(PRIVATE_CLASS).unwrap());
        let request = request(&[(1, PRIVATE_CLASS, &[EXPLICIT_LITTLE])]);
        let (accept, _) = answer(&request, &config).unwrap();
        assert_eq!(results(&accept), [(1, 0, EXPLICIT_LITTLE)]);
    }

    #[test]
    fn a_service_is_served_when_the_configuration_names_it_and_in_encodings_that_are_parsed() {
        let deflated = "1.2.840.10008.1.2.1.99";
        let request = request(&[
            (
                1,
                crate::WORKLIST,
                &[deflated, IMPLICIT_LITTLE, EXPLICIT_LITTLE],
            ),
            (3, crate::WORKLIST, &[deflated]),
        ]);
        let (accept, _) = answer(&request, &config()).unwrap();
        assert_eq!(
            results(&accept),
            [(1, 3, IMPLICIT_LITTLE), (3, 3, IMPLICIT_LITTLE)]
        );
        let serving = ScpConfig {
            services: vec![Service::Worklist],
            ..config()
        };
        let (accept, _) = answer(&request, &serving).unwrap();
        assert_eq!(
            results(&accept),
            [(1, 0, EXPLICIT_LITTLE), (3, 4, IMPLICIT_LITTLE)]
        );
    }

    #[test]
    fn a_peer_is_user_and_no_provider_of_what_was_accepted() {
        let mut request = request(&[(1, CT, &[EXPLICIT_LITTLE])]);
        let roles = |class: &str, scu, scp| {
            let roles = RequestorRoles { scu, scp };
            UserVariableItem::ScuScpRoleSelectionSubItem(class.to_string(), roles)
        };
        request.user_variables.push(roles(CT, true, true));
        request.user_variables.push(roles("1.2.3", true, false));
        let (accept, _) = answer(&request, &config()).unwrap();
        let answered: Vec<_> = accept
            .user_variables
            .into_iter()
            .filter(|item| matches!(item, UserVariableItem::ScuScpRoleSelectionSubItem(..)))
            .collect();
        assert_eq!(answered, [roles(CT, true, false)]);
    }

    #[test]
    fn another_called_title_is_rejected_unless_any_is_taken() {
        let mut other = request(&[(1, CT, &[EXPLICIT_LITTLE])]);
        other.called_ae_title = "ARCHIVE".to_string();
        assert_eq!(
            answer(&other, &config()).unwrap_err(),
            Rejection::CalledTitle
        );
        let any = ScpConfig {
            accept_any_called: true,
            ..config()
        };
        assert!(answer(&other, &any).is_ok());
    }

    #[test]
    fn version_and_application_context_must_be_dicoms() {
        let mut version = request(&[]);
        version.protocol_version = 2;
        assert_eq!(
            answer(&version, &config()).unwrap_err(),
            Rejection::ProtocolVersion
        );
        version.protocol_version = 3;
        assert!(answer(&version, &config()).is_ok());
        let mut application = request(&[]);
        application.application_context_name = "1.2.3".to_string();
        assert_eq!(
            answer(&application, &config()).unwrap_err(),
            Rejection::ApplicationContext
        );
    }
}
