package archive

import (
	"errors"
	"sort"
	"strconv"
	"strings"
	"time"

	"consilium"
	"consilium/internal/canon"
)

// crateFile describes the archive as an RO-Crate 1.2 (w3id.org/ro/crate/1.2),
// so that repositories of research data can read what it is. It is derived as
// well: nothing in it is believed, and Verify makes it again.
const crateFile = "ro-crate-metadata.json"

const crateProfile = "https://w3id.org/ro/crate/1.2"

var errText = errors.New("a text of more than 256 characters, or of several lines")

// described says what each file is, for people.
func described(name string) string {
	switch name {
	case manifestFile:
		return "Every other file with its SHA-256, signed by the archive's maker with Ed25519 and ML-DSA-65"
	case rosterFile:
		return "Who is who: the federation's roster, signed by its ethics board"
	case eventsFile:
		return "Every statement about the study in the exact bytes that were signed, with its proof of inclusion in the coordinators' audit log"
	case checkpointFile:
		return "The audit log's signed tree head (c2sp.org/tlog-checkpoint)"
	case resultFile:
		return "The result as the hospitals signed it, after its salt of 32 bytes"
	case studyFile:
		return "The study's id"
	case specFile:
		return "The study as the team submitted it (RFC 8785)"
	case charterFile:
		return "The enrolled study, as every hospital signed it (RFC 8785)"
	case contentsFile:
		return "Who signed what: policy digest and approvals, decisions, cohort manifests, ciphertext digests, certificates of enrolment, contributors and states"
	case softwareFile:
		return "The program that wrote the archive"
	}
	return "A hospital's own record of the study, anchored in its witnessed ledger"
}

func mediaType(name string) string {
	switch {
	case strings.HasSuffix(name, ".json"):
		return "application/json"
	case strings.HasSuffix(name, ".txt"):
		return "text/plain"
	}
	return "application/octet-stream"
}

type ref struct {
	ID string `json:"@id"`
}

// crate writes the description of an archive with these files and a manifest.
func crate(c *Contents, by string, files map[string][]byte) ([]byte, error) {
	published := time.Unix(0, 0)
	name, question := "Study "+string(c.Study), "A federated analysis."
	if n := len(c.Events); n > 0 {
		published = time.UnixMilli(c.Events[n-1].Time)
	}
	if spec := files[specFile]; spec != nil {
		if s, err := consilium.ParseSpec(spec); err == nil {
			name, question = s.Name, s.Question
		}
	}
	soft, err := parseSoftware(files[softwareFile])
	if err != nil {
		return nil, err
	}
	names := []string{manifestFile}
	for f := range files {
		if f != crateFile {
			names = append(names, f)
		}
	}
	sort.Strings(names)
	parts := make([]ref, len(names))
	graph := []any{
		map[string]any{"@id": crateFile, "@type": "CreativeWork", "about": ref{"./"}, "conformsTo": ref{crateProfile}},
	}
	for i, f := range names {
		parts[i] = ref{f}
	}
	graph = append(graph, map[string]any{
		"@id": "./", "@type": "Dataset", "name": "Audit archive of " + name, "description": question + " Everything to verify the study and to replay its decisions, offline.",
		"datePublished": published.UTC().Format(time.RFC3339), "license": ref{"#licence"}, "hasPart": parts, "author": ref{"#maker"},
		"identifier": string(c.Study), "mentions": ref{"#written"},
	})
	for _, f := range names {
		e := map[string]any{"@id": f, "@type": "File", "name": f, "description": described(f), "encodingFormat": mediaType(f)}
		if b, ok := files[f]; ok { // the manifest comes after this description
			e["contentSize"] = strconv.Itoa(len(b)) // schema.org: text
		}
		graph = append(graph, e)
	}
	graph = append(graph,
		map[string]any{"@id": "#licence", "@type": "CreativeWork", "name": "No licence is granted",
			"description": "The federation's board and the hospitals decide who may have this archive. It holds no patient's data."},
		map[string]any{"@id": "#maker", "@type": "Organization", "name": by, "description": "The data-science team that asked the question and signed the manifest"},
		map[string]any{"@id": "#software", "@type": "SoftwareApplication", "name": soft.Name, "softwareVersion": strings.TrimSpace(soft.Version + " " + soft.Commit), "runtimePlatform": soft.Go},
		map[string]any{"@id": "#written", "@type": "CreateAction", "name": "The archive was written", "instrument": ref{"#software"}, "agent": ref{"#maker"}, "result": ref{"./"}},
	)
	return canon.Marshal(map[string]any{"@context": crateProfile + "/context", "@graph": graph})
}
