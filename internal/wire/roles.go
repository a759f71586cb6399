package wire

import (
	"slices"

	"consilium"
	"consilium/api/v1"
)

// everyone may check the shape of the audit log: hashes and signatures that
// say nothing about a study.
var everyone = []Role{RoleSite, RoleResearcher, RoleBoard, RoleCoordinator, RoleAuditor}

// permissions says which role may call what. A method that does not stand here
// is refused to everybody.
var permissions = map[string][]Role{
	apiv1.StudyService_Submit_FullMethodName: {RoleResearcher, RoleBoard},
	apiv1.StudyService_List_FullMethodName:   {RoleSite, RoleResearcher, RoleBoard},
	apiv1.StudyService_Status_FullMethodName: {RoleSite, RoleResearcher, RoleBoard},
	apiv1.StudyService_Follow_FullMethodName: {RoleResearcher, RoleBoard},
	apiv1.StudyService_Fetch_FullMethodName:  {RoleResearcher, RoleBoard},

	apiv1.SiteService_Post_FullMethodName:    {RoleSite},
	apiv1.SiteService_Upload_FullMethodName:  {RoleSite},
	apiv1.SiteService_Follow_FullMethodName:  {RoleSite},
	apiv1.SiteService_Fetch_FullMethodName:   {RoleSite},
	apiv1.SiteService_PutBlob_FullMethodName: {RoleSite},

	apiv1.PeerService_Hello_FullMethodName: {RoleCoordinator},
	apiv1.PeerService_Store_FullMethodName: {RoleCoordinator},
	apiv1.PeerService_Load_FullMethodName:  {RoleCoordinator},
	apiv1.PeerService_Holds_FullMethodName: {RoleCoordinator},

	apiv1.AuditService_Checkpoint_FullMethodName:  everyone,
	apiv1.AuditService_Tile_FullMethodName:        everyone,
	apiv1.AuditService_Inclusion_FullMethodName:   everyone,
	apiv1.AuditService_Consistency_FullMethodName: everyone,
	// Leaves are events of every study: what a site or a team may see of them
	// it gets from Follow.
	apiv1.AuditService_Entries_FullMethodName: {RoleBoard, RoleCoordinator, RoleAuditor},
}

// authorize is the gate of every call.
func authorize(method string, id Identity) error {
	if slices.Contains(permissions[method], id.Role) {
		return nil
	}
	return consilium.ErrForbidden.Withf("%s calls %s", id, method)
}
