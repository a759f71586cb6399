package main

// commands lists every command. Words stay as they are: add, do not rename.
func commands() []command {
	return []command{
		{"demo", "", "a whole federation on this machine, on a real trial", runDemo},
		{"simulate", "", "the same on your own table, one hospital per distinct value of a column", runSimulate},
		{"study new", "", "draft a study file from a table", runStudyNew},
		{"study check", "FILE", "check a study file and say what would leave each hospital", runStudyCheck},
	}
}
