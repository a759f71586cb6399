package main

import (
	"consilium"
	"consilium/models"
	"consilium/models/net"
)

// learned are the analysis types of other rooms than models.
func learned() map[string]models.Constructor {
	return map[string]models.Constructor{
		consilium.AnalysisTrain: func(f consilium.Facts, s *consilium.AnalysisSpec) (models.Analysis, error) { return net.New(f, s) },
	}
}
