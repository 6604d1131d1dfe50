from dinat_deploy.cli import main

main()
