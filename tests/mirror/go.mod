module example.invalid/chasi/mirror

go 1.24
