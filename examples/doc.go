// Package examples holds studies with their tables or the programs that generate
// them: cgd is a real trial, learning, wearable and coldchain generate theirs and say
// so, gwas has generated genotypes, streams writes deliveries of devices. Its tests run
// what each page says and hold the numbers that the page expects.
package examples
