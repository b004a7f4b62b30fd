module gpucost.test/programs

go 1.26
